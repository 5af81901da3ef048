// rows by 256 threads, 4 elements a thread
// rows by 256 threads, in parts if they are long and few, 4 elements a thread
// kernel0<<<1//((n + 3)//16388 + 1), 256>>>(n, (n + 3)//4, read 0, write 0)
// kernel1<<<-((n + 16383)//16384)*(1//((n + 3)//16388 + 1)) + (n + 16383)//16384, 256>>>((n + 16383)//16384, n, (n + 3)//4, read 0, workspace 0)
// kernel2<<<-(1//((n + 3)//16388 + 1)) + 1, 256>>>(n, (n + 16383)//16384, workspace 0, write 0)
// workspace 64*((n + 262143)//262144)

extern "C" __global__ void __launch_bounds__(256) kernel0(const long long n0_, const long long n1_, const float* r0, float* w0) {
    const Index n1 = (Index)n1_;
    const Index n0 = (Index)n0_;
    const Index position_1 = (Index)threadIdx.x % 256;
    const Index unit_2 = (Index)blockIdx.x;
    Sum<float>::Type acc_3[4] = {Sum<float>::start(), Sum<float>::start(), Sum<float>::start(), Sum<float>::start()};
    for (Index chunk_4 = position_1; chunk_4 < n1; chunk_4 += 256) {
        const Index v_5 = chunk_4 * 4;
        const int count_6 = (int)least<Index>(4, n0 - v_5);
        const Pack<4, float> x_7 = fetched<4>(r0 + v_5, count_6, true);
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            if (v < count_6) {
                acc_3[v] = Sum<float>::join(acc_3[v], x_7.item[v]);
            }
        }
    }
    const Sum<float>::Type whole_8 = joined<Sum<float>, 256, 256>(joined_values<Sum<float>, 4>(acc_3));
    const float v_9 = whole_8 / (float)n0_;
    if (position_1 == 0) {
        w0[0] = v_9;
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel1(const long long n0_, const long long n1_, const long long n2_, const float* r0, u8* t4) {
    const Index n0 = (Index)n0_;
    const Index n2 = (Index)n2_;
    const Index n1 = (Index)n1_;
    const Index part_1 = (Index)blockIdx.x % n0;
    const Index block_2 = (Index)blockIdx.x / n0;
    const Index position_3 = (Index)threadIdx.x % 256;
    const Index unit_4 = block_2;
    Sum<float>::Type acc_5[4] = {Sum<float>::start(), Sum<float>::start(), Sum<float>::start(), Sum<float>::start()};
    const Index last_6 = least<Index>((part_1 + 1) * 4096, n2);
    for (Index chunk_7 = position_3 + part_1 * 4096; chunk_7 < last_6; chunk_7 += 256) {
        const Index v_8 = chunk_7 * 4;
        const int count_9 = (int)least<Index>(4, n1 - v_8);
        const Pack<4, float> x_10 = fetched<4>(r0 + v_8, count_9, true);
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            if (v < count_9) {
                acc_5[v] = Sum<float>::join(acc_5[v], x_10.item[v]);
            }
        }
    }
    const Sum<float>::Type whole_11 = joined<Sum<float>, 256, 256>(joined_values<Sum<float>, 4>(acc_5));
    if (position_3 == 0) {
        ((Sum<float>::Type*)t4)[part_1] = whole_11;
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel2(const long long n0_, const long long n1_, u8* t2, float* w0) {
    const Index n1 = (Index)n1_;
    const Index position_1 = (Index)threadIdx.x % 256;
    const Index unit_2 = (Index)blockIdx.x;
    Sum<float>::Type acc_3[1] = {Sum<float>::start()};
    for (Index part_4 = position_1; part_4 < n1; part_4 += 256) {
        acc_3[0] = Sum<float>::join(acc_3[0], ((Sum<float>::Type*)t2)[part_4]);
    }
    const Sum<float>::Type whole_5 = joined<Sum<float>, 256, 256>(acc_3[0]);
    const float v_6 = whole_5 / (float)n0_;
    if (position_1 == 0) {
        w0[0] = v_6;
    }
}
