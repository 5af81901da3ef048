// rows by 32 threads, an element a thread
// kernel0<<<150, 64>>>(read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(64) kernel0(const float* r0, i64* w0) {
    const Index position_1 = (Index)threadIdx.x % 32;
    const Index unit_2 = (Index)blockIdx.x * 2 + (Index)threadIdx.x / 32;
    const Index at_3 = unit_2 * 77;
    GreatestPlace<float>::Type acc_4[1] = {GreatestPlace<float>::start()};
    for (Index chunk_5 = position_1; chunk_5 < 77; chunk_5 += 32) {
        const float x_6 = r0[at_3 + chunk_5];
        acc_4[0] = GreatestPlace<float>::join(acc_4[0], GreatestPlace<float>::Type{x_6, (i64)chunk_5});
    }
    const GreatestPlace<float>::Type whole_7 = joined<GreatestPlace<float>, 32, 64>(acc_4[0]);
    if (position_1 == 0) {
        w0[unit_2] = whole_7.position;
    }
}
