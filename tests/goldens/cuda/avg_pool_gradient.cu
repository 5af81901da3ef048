// the windows of an element a thread
// kernel0<<<8, 256>>>(read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, float* w0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 1998) {
        const Index i_2 = number_1 % 37;
        const Index rest_3 = number_1 / 37;
        const Index i_4 = rest_3 % 9;
        const Index rest_5 = rest_3 / 9;
        const Index i_6 = rest_5 % 3;
        const Index rest_7 = rest_5 / 3;
        float total = 0;
        const Index past_8 = i_4 + 1;
        const Index first_9 = (most<Index>(past_8 - 2, 0) + 2 - 1) / 2;
        const Index last_10 = least<Index>(past_8 / 2 + 1, 5);
        const Index past_11 = i_2;
        const Index first_12 = (most<Index>(past_11 - 2, 0) + 2 - 1) / 2;
        const Index last_13 = least<Index>(past_11 / 2 + 1, 18);
        for (Index window_14 = first_9; window_14 < last_10; ++window_14) {
            for (Index window_15 = first_12; window_15 < last_13; ++window_15) {
                const Index start_16 = window_14 * 2 - 1;
                const Index start_17 = window_15 * 2;
                const float x_18 = r0[rest_7 * 270 + i_6 * 90 + window_14 * 18 + window_15];
                total += x_18;
            }
        }
        const float count_19 = (float)(3 * 3);
        w0[rest_7 * 999 + i_6 * 333 + i_4 * 37 + i_2] = total / count_19;
    }
}
