// weight arranged
// tiles of 16x64x16 on tensor cores (Tf32)
// not by cudnn, which isn't there
// kernel0<<<27, 256>>>(workspace 0, read 1)
// kernel1<<<8, 128>>>(workspace 0, read 0, write 0)
// workspace 27648

extern "C" __global__ void __launch_bounds__(256) kernel0(float* t0, const float* r1) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 6912) {
        const Index i_2 = number_1 % 24;
        const Index rest_3 = number_1 / 24;
        const Index i_4 = rest_3 % 32;
        const Index rest_5 = rest_3 / 32;
        const Index i_6 = rest_5 % 3;
        const Index rest_7 = rest_5 / 3;
        const Index output_8 = i_2;
        t0[rest_7 * 2304 + i_6 * 768 + i_4 * 24 + i_2] = r1[output_8 * 288 + i_4 * 9 + rest_7 * 3 + i_6];
    }
}

extern "C" __global__ void __launch_bounds__(128) kernel1(float* t0, const float* r0, float* w0) {
    const Index tile_1 = (Index)blockIdx.x % (2 * 4);
    const Index group_2 = tile_1 / (8 * 4) * 8;
    const Index height_3 = least<Index>(2 - group_2, 8);
    const Index inside_4 = tile_1 % (8 * 4);
    const Index i0_5 = (group_2 + inside_4 % height_3) * 16;
    const Index j0_6 = inside_4 / height_3 * 64;
    const float* base_7 = &t0[0];
    const float* base_8 = r0 + 0;
    struct Column { const float* start; Index at0; Index at1; };
    const auto value = [](const float& x) -> float { return (float)x; };
    const auto a_line = [&](Index i) -> const float* {
        return i < 24 ? base_7 + i : nullptr;
    };
    const auto a_slab = [&](const auto& p, Index k) -> const float* {
        if (p == nullptr || k >= 288) return nullptr;
        const Index i_9 = k % 32;
        const Index rest_10 = k / 32;
        const Index i_11 = rest_10 % 3;
        const Index rest_12 = rest_10 / 3;
        return p + rest_12 * 2304 + i_11 * 768 + i_9 * 24;
    };
    const auto a_place = [&](const auto& p, Index k) -> const float* {
        return p != nullptr ? p + k * 24 : nullptr;
    };
    const auto b_line = [&](Index i) -> Column {
        const Index i_13 = i % 10;
        const Index rest_14 = i / 10;
        const Index i_15 = rest_14 % 10;
        const Index rest_16 = rest_14 / 10;
        return Column{i < 200 ? base_8 + rest_16 * 12800 : nullptr, -1 + i_15 * 2, -1 + i_13 * 2};
    };
    const auto b_slab = [&](const auto& p, Index k) -> const float* {
        if (p.start == nullptr || k >= 288) return nullptr;
        const Index i_17 = k % 32;
        const Index rest_18 = k / 32;
        const Index i_19 = rest_18 % 3;
        const Index rest_20 = rest_18 / 3;
        const Index place_21 = p.at0 + rest_20;
        if (place_21 < 0 || place_21 >= 20) return nullptr;
        const Index place_22 = p.at1 + i_19;
        if (place_22 < 0 || place_22 >= 20) return nullptr;
        return p.start + i_17 * 400 + place_21 * 20 + place_22;
    };
    const auto b_place = [&](const auto& p, Index k) -> const float* {
        return p != nullptr ? p + k * 400 : nullptr;
    };
    const auto a = slabbed<false, 4>(a_line, a_slab, a_place);
    const auto b = slabbed<false, 1>(b_line, b_slab, b_place);
    const auto out = [&](Index i, Index j, float sum) {
        if (i >= 24 || j >= 200) return;
        const Index i_23 = j % 10;
        const Index rest_24 = j / 10;
        const Index i_25 = rest_24 % 10;
        const Index rest_26 = rest_24 / 10;
        const Index channel_27 = i;
        const float element_28 = (float)(sum);
        w0[rest_26 * 2400 + channel_27 * 100 + i_25 * 10 + i_23] = element_28;
    };
    product<Cores<Tf32, 16, 64, 1, 2>, 16, float>(value, a, b, i0_5, j0_6, 0, 288, out);
}
