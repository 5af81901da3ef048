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
        return i < 24 ? base_7 + i * 216 : nullptr;
    };
    const auto b_line = [&](Index i) -> Column {
        const Index i_9 = i % 10;
        const Index rest_10 = i / 10;
        const Index i_11 = rest_10 % 10;
        const Index rest_12 = rest_10 / 10;
        return Column{i < 200 ? base_8 + rest_12 * 9600 : nullptr, -1 + i_11 * 2, -1 + i_9 * 2};
    };
    const auto b_place = [&](const auto& p, Index k) -> const float* {
        if (p.start == nullptr || k >= 216) return nullptr;
        const Index i_13 = k % 3;
        const Index rest_14 = k / 3;
        const Index i_15 = rest_14 % 3;
        const Index rest_16 = rest_14 / 3;
        const Index place_17 = p.at0 + i_15;
        if (place_17 < 0 || place_17 >= 20) return nullptr;
        const Index place_18 = p.at1 + i_13;
        if (place_18 < 0 || place_18 >= 20) return nullptr;
        return p.start + rest_16 * 400 + place_17 * 20 + place_18;
    };
    struct PlainSpot { Index offset; bool inside; };
    const auto a_spot = [&](Index k) -> PlainSpot {
        const bool inside = k < 216;
        return PlainSpot{k, inside};
    };
    const auto a_there = [&](const auto& p, const PlainSpot& s) -> const float* {
        return (p != nullptr) & s.inside ? p + s.offset : nullptr;
    };
    const auto a = spotted<true, 4>(a_line, a_spot, a_there);
    const auto b = lines<false, 1>(b_line, b_place);
    const auto out = [&](Index i, Index j, float sum) {
        if (i >= 24 || j >= 200) return;
        const Index i_19 = j % 10;
        const Index rest_20 = j / 10;
        const Index i_21 = rest_20 % 10;
        const Index rest_22 = rest_20 / 10;
        const Index channel_23 = i;
        const float element_24 = (float)(sum);
        const float v_25 = maximum(element_24, 0.0f);
        w0[rest_22 * 2400 + channel_23 * 100 + i_21 * 10 + i_19] = v_25;
    };
    product<Plain<float, 16, 64, 4, 4>, 16, float>(value, a, b, i0_5, j0_6, 0, 216, out);
}
