// columns by 8 threads, 8 elements a thread
// kernel0<<<2, 256>>>(read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const bf16* r0, bf16* w0) {
    const Index position_1 = (Index)threadIdx.x / 32;
    const Index unit_2 = (Index)blockIdx.x * 32 + (Index)threadIdx.x % 32;
    const Index row_3 = least<Index>(unit_2, 33 - 1);
    const Index v_4 = row_3 * 8;
    Sum<float>::Type acc_5[8] = {Sum<float>::start(), Sum<float>::start(), Sum<float>::start(), Sum<float>::start(), Sum<float>::start(), Sum<float>::start(), Sum<float>::start(), Sum<float>::start()};
    for (Index chunk_6 = position_1; chunk_6 < 100; chunk_6 += 8) {
        const Pack<8, bf16> x_7 = fetched<8>(r0 + v_4 + chunk_6 * 264);
        #pragma unroll
        for (int v = 0; v < 8; ++v) {
            acc_5[v] = Sum<float>::join(acc_5[v], widened(x_7.item[v]));
        }
    }
    joined_columns<Sum<float>, 8, 32, 8>(acc_5);
    if (position_1 == 0 && unit_2 < 33) {
        Pack<8, bf16> out_8;
        #pragma unroll
        for (int v = 0; v < 8; ++v) {
            out_8.item[v] = narrowed<bf16>(acc_5[v]);
        }
        put<8>(w0 + v_4, out_8);
    }
}
