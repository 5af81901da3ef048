// lines by blocks, in parts of 4096
// kernel0<<<18, 256>>>(read 0, read 1, workspace 0)
// kernel1<<<2, 256>>>(read 0, read 1, workspace 256, workspace 0)
// kernel2<<<18, 256>>>(read 0, read 1, write 0, workspace 256)
// workspace 384

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, const float* r1, i32* t2) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 4608) {
        const Index team = number_1 / 256;
        const Index v_2 = team / 2;
        const Index v_3 = team % 2;
        const Index low_4 = v_3 * 4096;
        const Index high_5 = least<Index>(low_4 + 4096, 5000);
        auto load_6 = [&](Index at, int count, Affine<float>(&steps)[4]) {
            const auto x0 = along<4, false>(&r0[v_2 * 5000 + at], 1, count, true);
            const auto x1 = along<4, false>(&r1[v_2 * 5000 + at], 1, count, true);
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                steps[v] = Affine<float>{(float)x0.item[v], (float)x1.item[v], 0};
            }
        };
        const Affine<float> total_7 = reduced<256, 4, Affine<float>>(load_6, low_4, high_5);
        Affine<float>* const parts_8 = reinterpret_cast<Affine<float>*>(t2);
        if (threadIdx.x % 256 == 0) parts_8[team] = total_7;
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel1(const float* r0, const float* r1, i32* t2, i32* t3) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 288) {
        const Index line_2 = number_1 / 32;
        auto load_3 = [&](Index at, int count, Affine<float>(&steps)[4]) {
            const auto x0 = along<4, false>(&r0[line_2 * 5000 + at], 1, count, true);
            const auto x1 = along<4, false>(&r1[line_2 * 5000 + at], 1, count, true);
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                steps[v] = Affine<float>{(float)x0.item[v], (float)x1.item[v], 0};
            }
        };
        float* const parts_4 = reinterpret_cast<float*>(t2);
        Affine<float>* const parts_5 = reinterpret_cast<Affine<float>*>(t3);
        auto load_6 = [&](Index at, int count, Affine<float>(&steps)[4]) {
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                steps[v] = v < count ? parts_5[line_2 * 2 + at + v] : Affine<float>::none();
            }
        };
        auto store_7 = [&](Index at, int count, const float(&values)[4]) {
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                if (v < count) parts_4[line_2 * 2 + at + v] = values[v];
            }
        };
        auto next = [&](const Affine<float>& step, Index part, float state) {
            if (step.is_regular()) return step.after(state);
            const Index low = part * 4096, high = least<Index>(low + 4096, 5000);
            auto nothing = [](Index, int, const float(&)[4]) {};
            return walked<4, true, Affine<float>>(load_3, nothing, Next(), low, high, state);
        };
        scanned<32, 4, true, Affine<float>>(load_6, store_7, next, 0, 2, (float)1.0f);
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel2(const float* r0, const float* r1, float* w0, i32* t3) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 4608) {
        const Index team = number_1 / 256;
        const Index v_2 = team / 2;
        const Index v_3 = team % 2;
        const Index low_4 = v_3 * 4096;
        const Index high_5 = least<Index>(low_4 + 4096, 5000);
        auto load_6 = [&](Index at, int count, Affine<float>(&steps)[4]) {
            const auto x0 = along<4, false>(&r0[v_2 * 5000 + at], 1, count, true);
            const auto x1 = along<4, false>(&r1[v_2 * 5000 + at], 1, count, true);
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                steps[v] = Affine<float>{(float)x0.item[v], (float)x1.item[v], 0};
            }
        };
        auto store_7 = [&](Index at, int count, const float(&values)[4]) {
            Pack<4, float> some;
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                some.item[v] = (float)(values[v]);
            }
            put_along<4, false>(&w0[v_2 * 5000 + at], 1, count, true, some);
        };
        float* const parts_8 = reinterpret_cast<float*>(t3);
        scanned<256, 4, true, Affine<float>>(load_6, store_7, Next(), low_4, high_5, parts_8[team]);
    }
}
