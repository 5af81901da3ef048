// a window a warp
// kernel0<<<18, 256>>>(read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, i64* w0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 4608) {
        const Index number_2 = number_1 / 32;
        const Index i_3 = number_2 % 8;
        const Index rest_4 = number_2 / 8;
        const Index i_5 = rest_4 % 3;
        const Index rest_6 = rest_4 / 3;
        const Index i_7 = rest_6 % 3;
        const Index rest_8 = rest_6 / 3;
        float best = float_of(0xff800000u);
        Index place = -1;
        const Index start_9 = i_5 * 1 - 1;
        const Index start_10 = i_3 * 3;
        const Index first_11 = most<Index>(0 - start_9, 0);
        const Index last_12 = least<Index>(most<Index>(20 - start_9, 0), 20);
        const Index v_13 = most<Index>(last_12 - first_11, 0);
        for (Index tap = threadIdx.x % 32; tap < v_13 * 9; tap += 32) {
            const Index j_14 = 0 + tap % 9;
            const Index rest_15 = tap / 9;
            const Index j_16 = first_11 + rest_15 % v_13;
            const Index rest_17 = rest_15 / v_13;
            const Index at_18 = start_9 + j_16;
            const Index at_19 = start_10 + j_14;
            const float x_20 = r0[rest_8 * 1800 + i_7 * 600 + at_18 * 30 + at_19];
            const float x = x_20;
            const Index at = at_18 * 30 + at_19;
            if (place < 0 || x > best || x != x) {
                best = x;
                place = at;
            }
        }
        place = joined_lanes<Better<float>, 32>(Spot<float>{best, place}).place;
        if (threadIdx.x % 32 != 0) return;
        w0[rest_8 * 72 + i_7 * 24 + i_5 * 8 + i_3] = (i64)most<Index>(place, 0);
    }
}
