// an element a thread
// kernel0<<<(5*k + 255)//256, 256>>>(5*k, k, read 1, failed, read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const long long n0_, const long long n1_, const i32* r1, int* failed, const float* r0, float* w0) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < n0) {
        const Index i_2 = number_1 % n1;
        const Index rest_3 = number_1 / n1;
        const i32 x_4 = r1[rest_3 * n1 + i_2];
        const i64 index_5 = x_4;
        const Index place_6 = (Index)(index_5 < 0 ? index_5 + 40LL : index_5);
        if (!(index_5 >= -40LL && index_5 < 40LL)) {
            *failed = 1;
            return;
        }
        const float x_7 = r0[rest_3 * 40 + place_6];
        const float v_8 = x_7 * 2.0f;
        w0[rest_3 * n1 + i_2] = v_8;
    }
}
