// tiles of 16x64x16
// not by cudnn, which isn't there
// kernel0<<<8, 64>>>(read 1, read 0, write 0)
// kernel1<<<8, 64>>>(read 1, read 0, write 0)
// kernel2<<<8, 64>>>(read 1, read 0, write 0)
// kernel3<<<8, 64>>>(read 1, read 0, write 0)
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
        return i < 24 ? base_7 + 4 + i * 9 : nullptr;
    };
    const auto b_line = [&](Index i) -> Column {
        const Index i_9 = i % 10;
        const Index rest_10 = i / 10;
        const Index i_11 = rest_10 % 10;
        const Index rest_12 = rest_10 / 10;
        return Column{i < 200 ? base_8 + rest_12 * 2400 : nullptr, i_11, i_9};
    };
    const auto b_place = [&](const auto& p, Index k) -> const float* {
        if (p.start == nullptr || k >= 24) return nullptr;
        const Index place_13 = p.at0 + 0;
        const Index place_14 = p.at1 + 0;
        return p.start + k * 100 + place_13 * 10 + place_14;
    };
    struct PlainSpot { Index offset; bool inside; };
    const auto a_spot = [&](Index k) -> PlainSpot {
        const bool inside = k < 24;
        return PlainSpot{k * 216, inside};
    };
    const auto a_there = [&](const auto& p, const PlainSpot& s) -> const float* {
        return (p != nullptr) & s.inside ? p + s.offset : nullptr;
    };
    const auto a = spotted<false, 1>(a_line, a_spot, a_there);
    const auto b = lines<false, 4>(b_line, b_place);
    const auto out = [&](Index i, Index j, float sum) {
        if (i >= 24 || j >= 200) return;
        const Index i_15 = j % 10;
        const Index rest_16 = j / 10;
        const Index i_17 = rest_16 % 10;
        const Index rest_18 = rest_16 / 10;
        const Index channel_19 = i;
        const float element_20 = (float)(sum);
        w0[rest_18 * 9600 + channel_19 * 400 + (i_17 * 2) * 20 + (i_15 * 2)] = element_20;
    };
    product<Plain<float, 16, 64, 4, 4>, 16, float>(value, a, b, i0_5, j0_6, 0, 24, out);
}

extern "C" __global__ void __launch_bounds__(64) kernel1(const float* r1, const float* r0, float* w0) {
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
        return i < 24 ? base_7 + 3 + i * 9 : nullptr;
    };
    const auto b_line = [&](Index i) -> Column {
        const Index i_9 = i % 10;
        const Index rest_10 = i / 10;
        const Index i_11 = rest_10 % 10;
        const Index rest_12 = rest_10 / 10;
        return Column{i < 200 ? base_8 + rest_12 * 2400 : nullptr, i_11, 1 + i_9};
    };
    const auto b_place = [&](const auto& p, Index k) -> const float* {
        if (p.start == nullptr || k >= 48) return nullptr;
        const Index i_13 = k % 2;
        const Index rest_14 = k / 2;
        const Index place_15 = p.at0 + 0;
        const Index place_16 = p.at1 + i_13 * (-1);
        if (place_16 < 0 || place_16 >= 10) return nullptr;
        return p.start + rest_14 * 100 + place_15 * 10 + place_16;
    };
    struct PlainSpot { Index offset; bool inside; };
    const auto a_spot = [&](Index k) -> PlainSpot {
        const bool inside = k < 48;
        const Index i_17 = k % 2;
        const Index rest_18 = k / 2;
        return PlainSpot{rest_18 * 216 + i_17 * 2, inside};
    };
    const auto a_there = [&](const auto& p, const PlainSpot& s) -> const float* {
        return (p != nullptr) & s.inside ? p + s.offset : nullptr;
    };
    const auto a = spotted<true, 1>(a_line, a_spot, a_there);
    const auto b = lines<false, 1>(b_line, b_place);
    const auto out = [&](Index i, Index j, float sum) {
        if (i >= 24 || j >= 200) return;
        const Index i_19 = j % 10;
        const Index rest_20 = j / 10;
        const Index i_21 = rest_20 % 10;
        const Index rest_22 = rest_20 / 10;
        const Index channel_23 = i;
        const float element_24 = (float)(sum);
        w0[rest_22 * 9600 + channel_23 * 400 + (i_21 * 2) * 20 + (1 + i_19 * 2)] = element_24;
    };
    product<Plain<float, 16, 64, 4, 4>, 16, float>(value, a, b, i0_5, j0_6, 0, 48, out);
}

extern "C" __global__ void __launch_bounds__(64) kernel2(const float* r1, const float* r0, float* w0) {
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
        return i < 24 ? base_7 + 1 + i * 9 : nullptr;
    };
    const auto b_line = [&](Index i) -> Column {
        const Index i_9 = i % 10;
        const Index rest_10 = i / 10;
        const Index i_11 = rest_10 % 10;
        const Index rest_12 = rest_10 / 10;
        return Column{i < 200 ? base_8 + rest_12 * 2400 : nullptr, 1 + i_11, i_9};
    };
    const auto b_place = [&](const auto& p, Index k) -> const float* {
        if (p.start == nullptr || k >= 48) return nullptr;
        const Index i_13 = k % 2;
        const Index rest_14 = k / 2;
        const Index place_15 = p.at0 + i_13 * (-1);
        if (place_15 < 0 || place_15 >= 10) return nullptr;
        const Index place_16 = p.at1 + 0;
        return p.start + rest_14 * 100 + place_15 * 10 + place_16;
    };
    struct PlainSpot { Index offset; bool inside; };
    const auto a_spot = [&](Index k) -> PlainSpot {
        const bool inside = k < 48;
        const Index i_17 = k % 2;
        const Index rest_18 = k / 2;
        return PlainSpot{rest_18 * 216 + i_17 * 6, inside};
    };
    const auto a_there = [&](const auto& p, const PlainSpot& s) -> const float* {
        return (p != nullptr) & s.inside ? p + s.offset : nullptr;
    };
    const auto a = spotted<true, 1>(a_line, a_spot, a_there);
    const auto b = lines<false, 1>(b_line, b_place);
    const auto out = [&](Index i, Index j, float sum) {
        if (i >= 24 || j >= 200) return;
        const Index i_19 = j % 10;
        const Index rest_20 = j / 10;
        const Index i_21 = rest_20 % 10;
        const Index rest_22 = rest_20 / 10;
        const Index channel_23 = i;
        const float element_24 = (float)(sum);
        w0[rest_22 * 9600 + channel_23 * 400 + (1 + i_21 * 2) * 20 + (i_19 * 2)] = element_24;
    };
    product<Plain<float, 16, 64, 4, 4>, 16, float>(value, a, b, i0_5, j0_6, 0, 48, out);
}

extern "C" __global__ void __launch_bounds__(64) kernel3(const float* r1, const float* r0, float* w0) {
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
        return i < 24 ? base_7 + i * 9 : nullptr;
    };
    const auto b_line = [&](Index i) -> Column {
        const Index i_9 = i % 10;
        const Index rest_10 = i / 10;
        const Index i_11 = rest_10 % 10;
        const Index rest_12 = rest_10 / 10;
        return Column{i < 200 ? base_8 + rest_12 * 2400 : nullptr, 1 + i_11, 1 + i_9};
    };
    const auto b_place = [&](const auto& p, Index k) -> const float* {
        if (p.start == nullptr || k >= 96) return nullptr;
        const Index i_13 = k % 2;
        const Index rest_14 = k / 2;
        const Index i_15 = rest_14 % 2;
        const Index rest_16 = rest_14 / 2;
        const Index place_17 = p.at0 + i_15 * (-1);
        if (place_17 < 0 || place_17 >= 10) return nullptr;
        const Index place_18 = p.at1 + i_13 * (-1);
        if (place_18 < 0 || place_18 >= 10) return nullptr;
        return p.start + rest_16 * 100 + place_17 * 10 + place_18;
    };
    struct PlainSpot { Index offset; bool inside; };
    const auto a_spot = [&](Index k) -> PlainSpot {
        const bool inside = k < 96;
        const Index i_19 = k % 2;
        const Index rest_20 = k / 2;
        const Index i_21 = rest_20 % 2;
        const Index rest_22 = rest_20 / 2;
        return PlainSpot{rest_22 * 216 + i_21 * 6 + i_19 * 2, inside};
    };
    const auto a_there = [&](const auto& p, const PlainSpot& s) -> const float* {
        return (p != nullptr) & s.inside ? p + s.offset : nullptr;
    };
    const auto a = spotted<true, 1>(a_line, a_spot, a_there);
    const auto b = lines<false, 1>(b_line, b_place);
    const auto out = [&](Index i, Index j, float sum) {
        if (i >= 24 || j >= 200) return;
        const Index i_23 = j % 10;
        const Index rest_24 = j / 10;
        const Index i_25 = rest_24 % 10;
        const Index rest_26 = rest_24 / 10;
        const Index channel_27 = i;
        const float element_28 = (float)(sum);
        w0[rest_26 * 9600 + channel_27 * 400 + (1 + i_25 * 2) * 20 + (1 + i_23 * 2)] = element_28;
    };
    product<Plain<float, 16, 64, 4, 4>, 16, float>(value, a, b, i0_5, j0_6, 0, 96, out);
}
