// an element a thread
// kernel0<<<1, 256>>>(read 0, read 1, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const i32* r0, const i32* r1, i32* w0) {
    const Index unit_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    const Index row_2 = least<Index>(unit_1, 9 - 1);
    const i32 x_3 = r0[row_2];
    const i32 x_4 = r1[row_2];
    const i32 v_5 = quotient(x_3, x_4);
    const i32 v_6 = remainder_of(v_5, (i32)7);
    if (unit_1 < 9) {
        w0[row_2] = v_6;
    }
}
