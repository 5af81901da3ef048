// columns by 16 threads, in parts, 4 elements a thread
// kernel0<<<79, 256>>>(read 0, workspace 0)
// kernel1<<<1, 256>>>(workspace 0, write 0)
// workspace 20224

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, u8* t1) {
    const Index part_1 = (Index)blockIdx.x % 79;
    const Index block_2 = (Index)blockIdx.x / 79;
    const Index position_3 = (Index)threadIdx.x / 16;
    const Index unit_4 = block_2 * 16 + (Index)threadIdx.x % 16;
    const Index v_5 = unit_4 * 4;
    Sum<float>::Type acc_6[4] = {Sum<float>::start(), Sum<float>::start(), Sum<float>::start(), Sum<float>::start()};
    const Index last_7 = least<Index>((part_1 + 1) * 64, 5000);
    for (Index chunk_8 = position_3 + part_1 * 64; chunk_8 < last_7; chunk_8 += 16) {
        const Pack<4, float> x_9 = fetched<4>(r0 + v_5 + chunk_8 * 64);
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            acc_6[v] = Sum<float>::join(acc_6[v], x_9.item[v]);
        }
    }
    joined_columns<Sum<float>, 16, 16, 4>(acc_6);
    if (position_3 == 0) {
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            ((Sum<float>::Type*)t1)[(part_1 * 16 + unit_4) * 4 + v] = acc_6[v];
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel1(u8* t0, float* w0) {
    const Index position_1 = (Index)threadIdx.x / 16;
    const Index unit_2 = (Index)blockIdx.x * 16 + (Index)threadIdx.x % 16;
    const Index v_3 = unit_2 * 4;
    Sum<float>::Type acc_4[4] = {Sum<float>::start(), Sum<float>::start(), Sum<float>::start(), Sum<float>::start()};
    for (Index part_5 = position_1; part_5 < 79; part_5 += 16) {
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            acc_4[v] = Sum<float>::join(acc_4[v], ((Sum<float>::Type*)t0)[(part_5 * 16 + unit_2) * 4 + v]);
        }
    }
    joined_columns<Sum<float>, 16, 16, 4>(acc_4);
    if (position_1 == 0) {
        Pack<4, float> out_6;
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            out_6.item[v] = acc_4[v];
        }
        put<4>(w0 + v_3, out_6);
    }
}
