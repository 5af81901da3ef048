// tiles of 16x64x16
// not by cudnn, which isn't there
// kernel0<<<8, 64>>>(read 1, read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(64) kernel0(const float* r1, const float* r0, float* w0) {
    const Index tile_1 = (Index)blockIdx.x % (2 * 4);
    const Index group_2 = tile_1 / (8 * 4) * 8;
    const Index height_3 = least<Index>(2 - group_2, 8);
    const Index inside_4 = tile_1 % (8 * 4);
    const Index i0_5 = (group_2 + inside_4 % height_3) * 16;
    const Index j0_6 = inside_4 / height_3 * 64;
    const float* base_7 = r1 + 0;
    const float* base_8 = r0 + 0;
    struct Column { const float* start; Index at0; Index at1; };
    const auto value = [](const float& x) -> float { return (float)x; };
    const auto a_line = [&](Index i) -> const float* {
        return i < 24 ? base_7 + i * 100 : nullptr;
    };
    const auto b_line = [&](Index i) -> Column {
        const Index i_9 = i % 3;
        const Index rest_10 = i / 3;
        const Index i_11 = rest_10 % 3;
        const Index rest_12 = rest_10 / 3;
        return Column{i < 216 ? base_8 + rest_12 * 400 : nullptr, -1 + i_11, -1 + i_9};
    };
    struct PlainSpot { Index offset; bool inside; };
    const auto a_spot = [&](Index k) -> PlainSpot {
        const bool inside = k < 200;
        const Index i_13 = k % 100;
        const Index rest_14 = k / 100;
        return PlainSpot{rest_14 * 2400 + i_13, inside};
    };
    const auto a_there = [&](const auto& p, const PlainSpot& s) -> const float* {
        return (p != nullptr) & s.inside ? p + s.offset : nullptr;
    };
    const auto a = spotted<true, 4>(a_line, a_spot, a_there);
    struct SourceSpot { Index offset; Index at0; Index at1; bool inside; };
    const auto b_spot = [&](Index k) -> SourceSpot {
        const Index i_15 = k % 10;
        const Index rest_16 = k / 10;
        const Index i_17 = rest_16 % 10;
        const Index rest_18 = rest_16 / 10;
        return SourceSpot{rest_18 * 9600, i_17 * 2, i_15 * 2, k < 200};
    };
    const auto b_there = [&](const auto& p, const SourceSpot& s) -> const float* {
        const Index place_19 = p.at0 + s.at0;
        const Index place_20 = p.at1 + s.at1;
        return (p.start != nullptr) & s.inside & (place_19 >= 0) & (place_19 < 20) & (place_20 >= 0) & (place_20 < 20) ? p.start + (s.offset) + place_19 * 20 + place_20 : nullptr;
    };
    const auto b = spotted<true, 1>(b_line, b_spot, b_there);
    const auto out = [&](Index i, Index j, float sum) {
        if (i >= 24 || j >= 216) return;
        const Index i_21 = j % 3;
        const Index rest_22 = j / 3;
        const Index i_23 = rest_22 % 3;
        const Index rest_24 = rest_22 / 3;
        const Index channel_25 = i;
        const float element_26 = (float)(sum);
        w0[channel_25 * 216 + rest_24 * 9 + i_23 * 3 + i_21] = element_26;
    };
    product<Plain<float, 16, 64, 4, 4>, 16, float>(value, a, b, i0_5, j0_6, 0, 200, out);
}
