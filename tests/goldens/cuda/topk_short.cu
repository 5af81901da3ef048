// bitonic
// kernel0<<<1, 512>>>(read 0, write 0, workspace 0)
// workspace 128

extern "C" __global__ void __launch_bounds__(512) kernel0(const float* r0, float* w0, i64* t2) {
    __shared__ Narrow records[1024];
    const Index line_1 = (Index)blockIdx.x;
    const int count_2 = 100;
    const Index first_3 = line_1 * 8;
    if (first_3 >= 5) return;
    for (int slot = threadIdx.x; slot < 8 * 128; slot += 512) {
        const int of_4 = slot / 128;
        const int at_5 = slot % 128;
        const Index line_6 = first_3 + of_4;
        Narrow x = last_record<Narrow>();
        if (at_5 < count_2 && line_6 < 5) {
            const Index i_7 = at_5;
            x = record<Narrow>(sort_key(r0[line_6 * 100 + i_7]), (u64)i_7);
        }
        records[of_4 * 128 + at_5] = x;
    }
    sort_shared(records, 128, 8 * 128);
    for (int slot = threadIdx.x; slot < 8 * 128; slot += 512) {
        const int of_8 = slot / 128;
        const int at_9 = slot % 128;
        const Index line_10 = first_3 + of_8;
        if (at_9 < least<Index>(count_2, 3) && line_10 < 5) {
            const Index i_11 = at_9;
            const i64 index_12 = index_of(records[of_8 * 128 + at_9]);
            w0[line_10 * 3 + i_11] = r0[line_10 * 100 + ((Index)index_12)];
            t2[line_10 * 3 + i_11] = index_12;
        }
    }
}
