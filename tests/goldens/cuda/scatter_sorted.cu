// bitonic tiles
// updates sorted by place
// kernel0<<<1, 512>>>(read 2, failed, workspace 0)
// kernel1<<<3, 256>>>(read 0, write 0)
// kernel2<<<1, 256>>>(workspace 0, read 1, workspace 5632)
// kernel3<<<9, 256>>>(failed, workspace 0, write 0, read 1, workspace 5632)
// workspace 6720

extern "C" __global__ void __launch_bounds__(512) kernel0(const i64* r2, int* failed, i64* t2) {
    __shared__ Narrow records[1024];
    const Index line_1 = (Index)blockIdx.x;
    const int count_2 = 700;
    if (line_1 >= 1) return;
    for (int slot = threadIdx.x; slot < 1024; slot += 512) {
        Narrow x = last_record<Narrow>();
        if (slot < count_2 && line_1 < 1) {
            const Index i_3 = slot;
            const i64 x_4 = r2[i_3];
            const i64 index_5 = x_4;
            const Index place_6 = (Index)(index_5 < 0 ? index_5 + 50LL : index_5);
            const bool fits_7 = index_5 >= -50LL && index_5 < 50LL;
            if (!fits_7) *failed = 1;
            x = record<Narrow>((u64)(fits_7 ? place_6 : 0), (u64)i_3);
        }
        records[slot] = x;
    }
    sort_shared(records, 1024, 1024);
    for (int slot = threadIdx.x; slot < 1024; slot += 512) {
        if (slot < count_2 && line_1 < 1) {
            const Index i_8 = slot;
            Narrow* const at_9 = reinterpret_cast<Narrow*>(t2);
            at_9[line_1 * 700 + i_8] = records[slot];
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel1(const float* r0, float* w0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 600) {
        const Index i_2 = number_1 % 12;
        const Index rest_3 = number_1 / 12;
        const float x_4 = r0[rest_3 * 12 + i_2];
        w0[rest_3 * 12 + i_2] = x_4;
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel2(i64* t0, const float* r1, float* t2) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 66) {
        const Index i_2 = number_1 % 3;
        const Index rest_3 = number_1 / 3;
        const Index column_4 = i_2 * 4;
        const Index first = rest_3 * 32;
        if (rest_3 == 0) return;
        Narrow* const at_6 = reinterpret_cast<Narrow*>(t0);
        const Narrow* const run_5 = at_6 + 0 * 700;
        const u64 key = key_of(run_5[first]);
        if (key_of(run_5[first - 1]) != key) return;
        float sum[4] = {};
        const Index end = least<Index>((first / 32 + 1) * 32, 700);
        Index at = first;
        for (; at < end && key_of(run_5[at]) == key; ++at) {
            const Index number_7 = (Index)index_of(run_5[at]);
            const Pack<4, float> x_8 = fetched<4>(&r1[number_7 * 12 + column_4]);
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                sum[v] += (float)x_8.item[v];
            }
        }
        Pack<4, float> out_9;
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            out_9.item[v] = (float)sum[v];
        }
        put<4>(&t2[rest_3 * 12 + column_4], out_9);
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel3(int* failed, i64* t1, float* w0, const float* r1, float* t4) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 2100) {
        const Index i_2 = number_1 % 3;
        const Index rest_3 = number_1 / 3;
        const Index column_4 = i_2 * 4;
        const Index first = rest_3;
        if (*failed) return;
        Narrow* const at_6 = reinterpret_cast<Narrow*>(t1);
        const Narrow* const run_5 = at_6 + 0 * 700;
        const u64 key = key_of(run_5[first]);
        if (first > 0 && key_of(run_5[first - 1]) == key) return;
        const Index number_7 = (Index)key;
        const Pack<4, float> x_8 = fetched<4>(&w0[number_7 * 12 + column_4]);
        float sum[4];
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            sum[v] = (float)x_8.item[v];
        }
        const Index end = least<Index>((first / 32 + 1) * 32, 700);
        Index at = first;
        for (; at < end && key_of(run_5[at]) == key; ++at) {
            const Index number_9 = (Index)index_of(run_5[at]);
            const Pack<4, float> x_10 = fetched<4>(&r1[number_9 * 12 + column_4]);
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                sum[v] += (float)x_10.item[v];
            }
        }
        for (; at < 700 && key_of(run_5[at]) == key; at += 32) {
            const Pack<4, float> x_11 = fetched<4>(&t4[(at / 32) * 12 + column_4]);
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                sum[v] += (float)x_11.item[v];
            }
        }
        Pack<4, float> out_12;
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            out_12.item[v] = (float)sum[v];
        }
        put<4>(&w0[number_7 * 12 + column_4], out_12);
    }
}
