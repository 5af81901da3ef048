// the updates of a slice a thread
// kernel0<<<3, 256>>>(read 0, write 0)
// kernel1<<<1, 256>>>(read 2, failed, write 0, read 1)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, float* w0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 600) {
        const Index i_2 = number_1 % 12;
        const Index rest_3 = number_1 / 12;
        const float x_4 = r0[rest_3 * 12 + i_2];
        w0[rest_3 * 12 + i_2] = x_4;
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel1(const i64* r2, int* failed, float* w0, const float* r1) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 12) {
        for (Index number = 0; number < 20; ++number) {
            const i64 x_2 = r2[number];
            const i64 index_3 = x_2;
            const Index place_4 = (Index)(index_3 < 0 ? index_3 + 50LL : index_3);
            if (!(index_3 >= -50LL && index_3 < 50LL)) {
                *failed = 1;
                return;
            }
            const float x_5 = r1[number * 12 + number_1];
            w0[place_4 * 12 + number_1] = (float)((float)w0[place_4 * 12 + number_1] + (float)x_5);
        }
    }
}
