// a window a thread
// the windows of an element a thread
// kernel0<<<3, 256>>>(read 1, workspace 0)
// kernel1<<<8, 256>>>(workspace 0, read 0, write 0)
// workspace 2176

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r1, i32* t1) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 540) {
        const Index i_2 = number_1 % 18;
        const Index rest_3 = number_1 / 18;
        const Index i_4 = rest_3 % 5;
        const Index rest_5 = rest_3 / 5;
        const Index i_6 = rest_5 % 3;
        const Index rest_7 = rest_5 / 3;
        float best = float_of(0xff800000u);
        Index place = -1;
        const Index start_8 = i_4 * 2 - 1;
        const Index start_9 = i_2 * 2;
        const Index first_10 = most<Index>(0 - start_8, 0);
        const Index last_11 = least<Index>(most<Index>(9 - start_8, 0), 3);
        for (Index j_12 = first_10; j_12 < last_11; ++j_12) {
            for (Index j_13 = 0; j_13 < 3; ++j_13) {
                const Index at_14 = start_8 + j_12;
                const Index at_15 = start_9 + j_13;
                const float x_16 = r1[rest_7 * 999 + i_6 * 333 + at_14 * 37 + at_15];
                const float x = x_16;
                const Index at = at_14 * 37 + at_15;
                if (place < 0 || x > best || x != x) {
                    best = x;
                    place = at;
                }
            }
        }
        t1[rest_7 * 270 + i_6 * 90 + i_4 * 18 + i_2] = most<Index>(place, 0);
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel1(i32* t0, const float* r0, float* w0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 1998) {
        const Index i_2 = number_1 % 37;
        const Index rest_3 = number_1 / 37;
        const Index i_4 = rest_3 % 9;
        const Index rest_5 = rest_3 / 9;
        const Index i_6 = rest_5 % 3;
        const Index rest_7 = rest_5 / 3;
        const Index at_8 = i_4 * 37 + i_2;
        float total = 0;
        const Index past_9 = i_4 + 1;
        const Index first_10 = (most<Index>(past_9 - 2, 0) + 2 - 1) / 2;
        const Index last_11 = least<Index>(past_9 / 2 + 1, 5);
        const Index past_12 = i_2;
        const Index first_13 = (most<Index>(past_12 - 2, 0) + 2 - 1) / 2;
        const Index last_14 = least<Index>(past_12 / 2 + 1, 18);
        for (Index window_15 = first_10; window_15 < last_11; ++window_15) {
            for (Index window_16 = first_13; window_16 < last_14; ++window_16) {
                if (t0[rest_7 * 270 + i_6 * 90 + window_15 * 18 + window_16] == at_8) {
                    const float x_17 = r0[rest_7 * 270 + i_6 * 90 + window_15 * 18 + window_16];
                    total += x_17;
                }
            }
        }
        w0[rest_7 * 999 + i_6 * 333 + i_4 * 37 + i_2] = total;
    }
}
