// a window a thread
// kernel0<<<3, 256>>>(read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, float* w0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 540) {
        const Index i_2 = number_1 % 18;
        const Index rest_3 = number_1 / 18;
        const Index i_4 = rest_3 % 5;
        const Index rest_5 = rest_3 / 5;
        const Index i_6 = rest_5 % 3;
        const Index rest_7 = rest_5 / 3;
        float best = float_of(0xff800000u);
        const Index start_8 = i_4 * 2 - 1;
        const Index start_9 = i_2 * 2;
        const Index first_10 = most<Index>(0 - start_8, 0);
        const Index last_11 = least<Index>(most<Index>(9 - start_8, 0), 3);
        for (Index j_12 = first_10; j_12 < last_11; ++j_12) {
            for (Index j_13 = 0; j_13 < 3; ++j_13) {
                const Index at_14 = start_8 + j_12;
                const Index at_15 = start_9 + j_13;
                const float x_16 = r0[rest_7 * 999 + i_6 * 333 + at_14 * 37 + at_15];
                const float x = x_16;
                best = maximum(best, x);
            }
        }
        const float v_17 = best * 2.0f;
        w0[rest_7 * 270 + i_6 * 90 + i_4 * 18 + i_2] = v_17;
    }
}
