// an element a thread
// kernel0<<<1, 256>>>(read 0, read 1, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const u8* r0, const float* r1, float* w0) {
    const Index unit_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    const Index row_2 = least<Index>(unit_1, 35 - 1);
    const bool x_3 = (r0[row_2] != 0);
    const float x_4 = r1[row_2];
    const float v_5 = x_3 ? x_4 : 0.5f;
    if (unit_1 < 35) {
        w0[row_2] = v_5;
    }
}
