// bitonic
// kernel0<<<4, 512>>>(read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(512) kernel0(const float* r0, i64* w0) {
    __shared__ Narrow records[1024];
    const Index line_1 = (Index)blockIdx.x;
    const Index first_2 = line_1 * 16;
    const int count = 40;
    int size = 1;
    while (size < count) size *= 2;
    for (int slot = threadIdx.x; slot < 16 * size; slot += 512) {
        const int of_3 = slot % 16;
        const int at_4 = slot / 16;
        const Index line_5 = first_2 + of_3;
        Narrow x = last_record<Narrow>();
        if (at_4 < count && line_5 < 60) {
            const Index i_6 = at_4;
            x = record<Narrow>(sort_key(r0[i_6 * 60 + line_5]), (u64)i_6);
        }
        records[of_3 * size + at_4] = x;
    }
    sort_shared(records, size, 16 * size);
    for (int slot = threadIdx.x; slot < 16 * size; slot += 512) {
        const int of_7 = slot % 16;
        const int at_8 = slot / 16;
        const Index line_9 = first_2 + of_7;
        if (at_8 < least<Index>(count, 40) && line_9 < 60) {
            const Index i_10 = at_8;
            const i64 index_11 = index_of(records[of_7 * size + at_8]);
            w0[i_10 * 60 + line_9] = index_11;
        }
    }
}
