// an element a thread
// kernel0<<<2, 256>>>(read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, float* w0) {
    const Index unit_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    const Index row_2 = least<Index>(unit_1, 300 - 1);
    const Index i_3 = row_2 % 100;
    const Index rest_4 = row_2 / 100;
    const Index at_5 = rest_4 * 100 + i_3;
    const i64 first_6 = (i64)i_3;
    const float x_7 = r0[at_5];
    const float v_8 = (float)first_6;
    const float v_9 = v_8 * x_7;
    if (unit_1 < 300) {
        w0[at_5] = v_9;
    }
}
