// teams of 32 threads for a result
// not by cudnn, which isn't there
// kernel0<<<48, 256>>>(read 1, read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r1, const float* r0, float* w0) {
    const Index i_1 = (Index)blockIdx.x % 2;
    const Index rest_2 = (Index)blockIdx.x / 2;
    const Index j_3 = i_1 * 8 + threadIdx.x / 32;
    const float* base_4 = r1 + rest_2 * 400;
    const float* base_5 = r0 + rest_2 * 400;
    struct Column { const float* start; Index at0; Index at1; };
    const auto value = [](const float& x) -> float { return (float)x; };
    const auto a_line = [&](Index i) -> const float* {
        return i < 1 ? base_4 + i * 400 : nullptr;
    };
    const auto a_place = [&](const auto& p, Index k) -> const float* {
        if (p == nullptr || k >= 800) return nullptr;
        const Index i_6 = k % 400;
        const Index rest_7 = k / 400;
        return p + rest_7 * 9600 + i_6;
    };
    const auto a_at = [&](const auto& p, Index k) -> float {
        const float* const found = a_place(p, k);
        return found != nullptr ? value(*found) : 0;
    };
    const auto b_line = [&](Index i) -> Column {
        const Index i_8 = i % 3;
        const Index rest_9 = i / 3;
        return Column{i < 9 ? base_5 + 0 : nullptr, -1 + rest_9, -1 + i_8};
    };
    const auto b_place = [&](const auto& p, Index k) -> const float* {
        if (p.start == nullptr || k >= 800) return nullptr;
        const Index i_10 = k % 20;
        const Index rest_11 = k / 20;
        const Index i_12 = rest_11 % 20;
        const Index rest_13 = rest_11 / 20;
        const Index place_14 = p.at0 + i_12;
        if (place_14 < 0 || place_14 >= 20) return nullptr;
        const Index place_15 = p.at1 + i_10;
        if (place_15 < 0 || place_15 >= 20) return nullptr;
        return p.start + rest_13 * 9600 + place_14 * 20 + place_15;
    };
    const auto b_at = [&](const auto& p, Index k) -> float {
        const float* const found = b_place(p, k);
        return found != nullptr ? value(*found) : 0;
    };
    const auto row = a_line(0);
    const auto column = b_line(j_3);
    float sums[1] = {};
    #pragma unroll 4
    for (Index k = threadIdx.x % 32; k < 800; k += 32) {
        sums[0] = fused_sum(a_at(row, k), b_at(column, k), sums[0]);
    }
    sums[0] = joined<Sum<float>, 32, 256>(sums[0]);
    if (threadIdx.x % 32 == 0 && j_3 < 9) {
        const Index i_16 = j_3 % 3;
        const Index rest_17 = j_3 / 3;
        const Index channel_18 = rest_2;
        const float element_19 = (float)(sums[0]);
        w0[channel_18 * 9 + rest_17 * 3 + i_16] = element_19;
    }
}
