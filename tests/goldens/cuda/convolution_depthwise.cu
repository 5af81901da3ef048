// 1 results a thread
// not by cudnn, which isn't there
// kernel0<<<75, 256>>>(read 1, read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r1, const float* r0, float* w0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 19200) {
        const Index i_2 = number_1 % 800;
        const Index rest_3 = number_1 / 800;
        const float* base_4 = r1 + rest_3 * 9;
        const float* base_5 = r0 + rest_3 * 400;
        struct Column { const float* start; Index at0; Index at1; };
        const auto value = [](const float& x) -> float { return (float)x; };
        const auto a_line = [&](Index i) -> const float* {
            return i < 1 ? base_4 + i * 9 : nullptr;
        };
        const auto a_place = [&](const auto& p, Index k) -> const float* {
            if (p == nullptr || k >= 9) return nullptr;
            return p + k;
        };
        const auto a_at = [&](const auto& p, Index k) -> float {
            const float* const found = a_place(p, k);
            return found != nullptr ? value(*found) : 0;
        };
        const auto b_line = [&](Index i) -> Column {
            const Index i_6 = i % 20;
            const Index rest_7 = i / 20;
            const Index i_8 = rest_7 % 20;
            const Index rest_9 = rest_7 / 20;
            return Column{i < 800 ? base_5 + rest_9 * 9600 : nullptr, -1 + i_8, -1 + i_6};
        };
        const auto b_place = [&](const auto& p, Index k) -> const float* {
            if (p.start == nullptr || k >= 9) return nullptr;
            const Index i_10 = k % 3;
            const Index rest_11 = k / 3;
            const Index place_12 = p.at0 + rest_11;
            if (place_12 < 0 || place_12 >= 20) return nullptr;
            const Index place_13 = p.at1 + i_10;
            if (place_13 < 0 || place_13 >= 20) return nullptr;
            return p.start + place_12 * 20 + place_13;
        };
        const auto b_at = [&](const auto& p, Index k) -> float {
            const float* const found = b_place(p, k);
            return found != nullptr ? value(*found) : 0;
        };
        const auto column = b_line(i_2);
        float sums[1] = {};
        #pragma unroll
        for (Index k = 0; k < 9; k++) {
            const float right = b_at(column, k);
            #pragma unroll
            for (int r = 0; r < 1; r++) sums[r] = fused_sum(a_at(a_line(r), k), right, sums[r]);
        }
        #pragma unroll
        for (Index i = 0; i < 1; i++) {
            const Index i_14 = i_2 % 20;
            const Index rest_15 = i_2 / 20;
            const Index i_16 = rest_15 % 20;
            const Index rest_17 = rest_15 / 20;
            const Index channel_18 = rest_3 + i;
            const float element_19 = (float)(sums[i]);
            w0[rest_17 * 9600 + channel_18 * 400 + i_16 * 20 + i_14] = element_19;
        }
    }
}
