// bitonic tiles, merged
// kernel0<<<20, 512>>>(read 0, workspace 0)
// kernel1<<<20, 256>>>(2048, workspace 0, workspace 640000)
// kernel1<<<20, 256>>>(4096, workspace 640000, workspace 0)
// kernel1<<<20, 256>>>(8192, workspace 0, workspace 640000)
// kernel2<<<157, 256>>>(workspace 0, workspace 640000, write 0)
// workspace 1280000

extern "C" __global__ void __launch_bounds__(512) kernel0(const double* r0, i64* t1) {
    __shared__ Wide records[2048];
    const Index line_1 = (Index)blockIdx.x / 5;
    const Index v_2 = (Index)blockIdx.x % 5;
    const Index low_3 = v_2 * 2048;
    const int count_4 = (int)least<Index>(10000 - low_3, 2048);
    int size_5 = 1;
    while (size_5 < count_4) size_5 *= 2;
    if (line_1 >= 4) return;
    for (int slot = threadIdx.x; slot < size_5; slot += 512) {
        Wide x = last_record<Wide>();
        if (slot < count_4 && line_1 < 4) {
            const Index i_6 = low_3 + slot;
            x = record<Wide>(sort_key(r0[line_1 * 10000 + i_6]), (u64)i_6);
        }
        records[slot] = x;
    }
    sort_shared(records, size_5, size_5);
    for (int slot = threadIdx.x; slot < size_5; slot += 512) {
        if (slot < count_4 && line_1 < 4) {
            const Index i_7 = low_3 + slot;
            Wide* const at_8 = reinterpret_cast<Wide*>(t1);
            at_8[line_1 * 10000 + i_7] = records[slot];
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel1(const long long width, i64* t1, i64* t2) {
    const Index line_1 = (Index)blockIdx.x / 5;
    const Index low_2 = (Index)blockIdx.x % 5 * 2048;
    if (low_2 >= 10000) return;
    Wide* const at_3 = reinterpret_cast<Wide*>(t1);
    Wide* const at_4 = reinterpret_cast<Wide*>(t2);
    merge_tile<Wide>(at_3 + line_1 * 10000, at_4 + line_1 * 10000, 10000, low_2, (Index)width);
}

extern "C" __global__ void __launch_bounds__(256) kernel2(i64* t0, i64* t1, i64* w0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 40000) {
        const Index i_2 = number_1 % 10000;
        const Index rest_3 = number_1 / 10000;
        Wide* const at_4 = reinterpret_cast<Wide*>(t0);
        Wide* const at_5 = reinterpret_cast<Wide*>(t1);
        int passes_6 = 0;
        while (((Index)2048 << passes_6) < 10000) ++passes_6;
        const Wide* sorted_7 = passes_6 % 2 == 0 ? at_4 : at_5;
        const i64 index_8 = index_of(sorted_7[rest_3 * 10000 + i_2]);
        w0[rest_3 * 10000 + i_2] = index_8;
    }
}
