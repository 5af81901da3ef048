// 4 elements a thread
// kernel0<<<2, 256>>>(read 1, failed, write 0, read 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const i64* r1, int* failed, float* w0, const float* r0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 336) {
        const Index i_2 = number_1 % 16;
        const Index rest_3 = number_1 / 16;
        const Index i_4 = rest_3 % 3;
        const Index rest_5 = rest_3 / 3;
        const Index v_6 = i_2 * 4;
        const i64 x_7 = r1[rest_5 * 3 + i_4];
        const i64 index_8 = x_7;
        const Index place_9 = (Index)(index_8 < 0 ? index_8 + 50LL : index_8);
        if (!(index_8 >= -50LL && index_8 < 50LL)) {
            *failed = 1;
            return;
        }
        put<4>(&w0[rest_5 * 192 + i_4 * 64 + v_6], fetched<4>(&r0[place_9 * 64 + v_6]));
    }
}
