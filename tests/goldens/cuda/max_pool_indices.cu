// a window a thread
// kernel0<<<(3*b*((h + 1)//2)*(w//2) + 255)//256, 256>>>(3*b*((h + 1)//2)*(w//2), w//2, (h + 1)//2, h, w, read 0, 3*h*w, h*w, write 0, 3*((h + 1)//2)*(w//2), ((h + 1)//2)*(w//2))
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const long long n0_, const long long n1_, const long long n2_, const long long n3_, const long long n4_, const float* r0, const long long n5_, const long long n6_, i64* w0, const long long n7_, const long long n8_) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index n2 = (Index)n2_;
    const Index n3 = (Index)n3_;
    const Index n4 = (Index)n4_;
    const Index n5 = (Index)n5_;
    const Index n6 = (Index)n6_;
    const Index n7 = (Index)n7_;
    const Index n8 = (Index)n8_;
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < n0) {
        const Index i_2 = number_1 % n1;
        const Index rest_3 = number_1 / n1;
        const Index i_4 = rest_3 % n2;
        const Index rest_5 = rest_3 / n2;
        const Index i_6 = rest_5 % 3;
        const Index rest_7 = rest_5 / 3;
        float best = float_of(0xff800000u);
        Index place = -1;
        const Index start_8 = i_4 * 2 - 1;
        const Index start_9 = i_2 * 2;
        const Index first_10 = most<Index>(0 - start_8, 0);
        const Index last_11 = least<Index>(most<Index>(n3 - start_8, 0), 3);
        const Index first_12 = most<Index>(0 - start_9, 0);
        const Index last_13 = least<Index>(most<Index>(n4 - start_9, 0), 3);
        for (Index j_14 = first_10; j_14 < last_11; ++j_14) {
            for (Index j_15 = first_12; j_15 < last_13; ++j_15) {
                const Index at_16 = start_8 + j_14;
                const Index at_17 = start_9 + j_15;
                const float x_18 = r0[rest_7 * n5 + i_6 * n6 + at_16 * n4 + at_17];
                const float x = x_18;
                const Index at = at_16 * n4 + at_17;
                if (place < 0 || x > best || x != x) {
                    best = x;
                    place = at;
                }
            }
        }
        w0[rest_7 * n7 + i_6 * n8 + i_4 * n1 + i_2] = (i64)most<Index>(place, 0);
    }
}
