// bitonic
// kernel0<<<4, 512>>>(read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(512) kernel0(const float* r0, i64* w0) {
    __shared__ Narrow records[1024];
    const Index line_1 = (Index)blockIdx.x;
    const int count_2 = 40;
    const Index first_3 = line_1 * 16;
    if (first_3 >= 60) return;
    for (int slot = threadIdx.x; slot < 16 * 64; slot += 512) {
        const int of_4 = slot % 16;
        const int at_5 = slot / 16;
        const Index line_6 = first_3 + of_4;
        Narrow x = last_record<Narrow>();
        if (at_5 < count_2 && line_6 < 60) {
            const Index i_7 = at_5;
            x = record<Narrow>(sort_key(r0[i_7 * 60 + line_6]), (u64)i_7);
        }
        records[of_4 * 64 + at_5] = x;
    }
    sort_shared(records, 64, 16 * 64);
    for (int slot = threadIdx.x; slot < 16 * 64; slot += 512) {
        const int of_8 = slot % 16;
        const int at_9 = slot / 16;
        const Index line_10 = first_3 + of_8;
        if (at_9 < least<Index>(count_2, 40) && line_10 < 60) {
            const Index i_11 = at_9;
            const i64 index_12 = index_of(records[of_8 * 64 + at_9]);
            w0[i_11 * 60 + line_10] = index_12;
        }
    }
}
