// rows by 256 threads, in parts, 4 elements a thread
// kernel0<<<245, 256>>>(read 0, workspace 0)
// kernel1<<<1, 256>>>(workspace 0, write 0)
// workspace 1024

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, u8* t1) {
    const Index part_1 = (Index)blockIdx.x % 245;
    const Index block_2 = (Index)blockIdx.x / 245;
    const Index position_3 = (Index)threadIdx.x % 256;
    const Index unit_4 = block_2;
    Sum<float>::Type acc_5[4] = {Sum<float>::start(), Sum<float>::start(), Sum<float>::start(), Sum<float>::start()};
    const Index last_6 = least<Index>((part_1 + 1) * 1024, 250000);
    for (Index chunk_7 = position_3 + part_1 * 1024; chunk_7 < last_6; chunk_7 += 256) {
        const Index v_8 = chunk_7 * 4;
        const Pack<4, float> x_9 = fetched<4>(r0 + v_8);
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            acc_5[v] = Sum<float>::join(acc_5[v], x_9.item[v]);
        }
    }
    const Sum<float>::Type whole_10 = joined<Sum<float>, 256, 256>(joined_values<Sum<float>, 4>(acc_5));
    if (position_3 == 0) {
        ((Sum<float>::Type*)t1)[part_1] = whole_10;
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel1(u8* t0, float* w0) {
    const Index position_1 = (Index)threadIdx.x % 256;
    const Index unit_2 = (Index)blockIdx.x;
    Sum<float>::Type acc_3[1] = {Sum<float>::start()};
    for (Index part_4 = position_1; part_4 < 245; part_4 += 256) {
        acc_3[0] = Sum<float>::join(acc_3[0], ((Sum<float>::Type*)t0)[part_4]);
    }
    const Sum<float>::Type whole_5 = joined<Sum<float>, 256, 256>(acc_3[0]);
    if (position_1 == 0) {
        w0[0] = whole_5;
    }
}
