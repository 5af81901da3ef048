// the updates of an element a thread
// kernel0<<<3, 256>>>(read 0, read 2, failed, read 1, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, const i64* r2, int* failed, const float* r1, float* w0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 600) {
        const Index i_2 = number_1 % 12;
        const Index rest_3 = number_1 / 12;
        const float x_4 = r0[rest_3 * 12 + i_2];
        float sum = (float)x_4;
        for (Index number = 0; number < 3; ++number) {
            const i64 x_5 = r2[number];
            const i64 index_6 = x_5;
            const Index place_7 = (Index)(index_6 < 0 ? index_6 + 50LL : index_6);
            if (!(index_6 >= -50LL && index_6 < 50LL)) {
                *failed = 1;
                return;
            }
            if (place_7 == rest_3) {
                const float x_8 = r1[number * 12 + i_2];
                sum += (float)x_8;
            }
        }
        const float v_9 = (float)sum * 2.0f;
        w0[rest_3 * 12 + i_2] = v_9;
    }
}
