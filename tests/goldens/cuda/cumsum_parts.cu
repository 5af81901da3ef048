// lines by blocks, in parts of 4096
// kernel0<<<(length + 4095)//4096, 256>>>(256*((length + 4095)//4096), (length + 4095)//4096, length, read 0, workspace 0)
// kernel1<<<1, 256>>>(length, read 0, (length + 4095)//4096, workspace 64*((length + 32767)//32768), workspace 0)
// kernel2<<<(length + 4095)//4096, 256>>>(256*((length + 4095)//4096), (length + 4095)//4096, length, read 0, write 0, workspace 64*((length + 32767)//32768))
// workspace 128*((length + 32767)//32768)

extern "C" __global__ void __launch_bounds__(256) kernel0(const long long n0_, const long long n1_, const long long n2_, const i64* r0, i64* t4) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index n2 = (Index)n2_;
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < n0) {
        const Index team = number_1 / 256;
        const Index v_2 = team / n1;
        const Index v_3 = team % n1;
        const Index low_4 = v_3 * 4096;
        const Index high_5 = least<Index>(low_4 + 4096, n2);
        auto load_6 = [&](Index at, int count, Shift<u64>(&steps)[4]) {
            const auto x0 = along<4, false>(&r0[at], 1, count, true);
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                steps[v] = Shift<u64>{(u64)x0.item[v]};
            }
        };
        const Shift<u64> total_7 = reduced<256, 4, Shift<u64>>(load_6, low_4, high_5);
        Shift<u64>* const parts_8 = reinterpret_cast<Shift<u64>*>(t4);
        if (threadIdx.x % 256 == 0) parts_8[team] = total_7;
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel1(const long long n0_, const i64* r0, const long long n1_, i64* t3, i64* t4) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 32) {
        const Index line_2 = number_1 / 32;
        auto load_3 = [&](Index at, int count, Shift<u64>(&steps)[4]) {
            const auto x0 = along<4, false>(&r0[at], 1, count, true);
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                steps[v] = Shift<u64>{(u64)x0.item[v]};
            }
        };
        u64* const parts_4 = reinterpret_cast<u64*>(t3);
        Shift<u64>* const parts_5 = reinterpret_cast<Shift<u64>*>(t4);
        auto load_6 = [&](Index at, int count, Shift<u64>(&steps)[4]) {
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                steps[v] = v < count ? parts_5[line_2 * n1 + at + v] : Shift<u64>::none();
            }
        };
        auto store_7 = [&](Index at, int count, const u64(&values)[4]) {
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                if (v < count) parts_4[line_2 * n1 + at + v] = values[v];
            }
        };
        auto next = [&](const Shift<u64>& step, Index part, u64 state) {
            if (step.is_regular()) return step.after(state);
            const Index low = part * 4096, high = least<Index>(low + 4096, n0);
            auto nothing = [](Index, int, const u64(&)[4]) {};
            return walked<4, true, Shift<u64>>(load_3, nothing, Next(), low, high, state);
        };
        scanned<32, 4, true, Shift<u64>>(load_6, store_7, next, 0, n1, (u64)0LL);
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel2(const long long n0_, const long long n1_, const long long n2_, const i64* r0, i64* w0, i64* t5) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index n2 = (Index)n2_;
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < n0) {
        const Index team = number_1 / 256;
        const Index v_2 = team / n1;
        const Index v_3 = team % n1;
        const Index low_4 = v_3 * 4096;
        const Index high_5 = least<Index>(low_4 + 4096, n2);
        auto load_6 = [&](Index at, int count, Shift<u64>(&steps)[4]) {
            const auto x0 = along<4, false>(&r0[at], 1, count, true);
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                steps[v] = Shift<u64>{(u64)x0.item[v]};
            }
        };
        auto store_7 = [&](Index at, int count, const u64(&values)[4]) {
            Pack<4, i64> some;
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                some.item[v] = (i64)(values[v]);
            }
            put_along<4, false>(&w0[at], 1, count, true, some);
        };
        u64* const parts_8 = reinterpret_cast<u64*>(t5);
        scanned<256, 4, false, Shift<u64>>(load_6, store_7, Next(), low_4, high_5, parts_8[team]);
    }
}
