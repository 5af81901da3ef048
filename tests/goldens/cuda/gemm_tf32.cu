// tiles of 128x128x16 on tensor cores (Tf32)
// not by cublas, since what follows would read the product back
// kernel0<<<256, 256>>>(read 0, read 1, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, const float* r1, float* w0) {
    const Index tile_1 = (Index)blockIdx.x % (16 * 16);
    const Index group_2 = tile_1 / (8 * 16) * 8;
    const Index height_3 = least<Index>(16 - group_2, 8);
    const Index inside_4 = tile_1 % (8 * 16);
    const Index i0_5 = (group_2 + inside_4 % height_3) * 128;
    const Index j0_6 = inside_4 / height_3 * 128;
    const float* start_7 = &r0[0];
    const float* start_8 = &r1[0];
    const auto value = [](const float& x) -> float { return (float)x; };
    const auto a_line = [&](Index i) -> const float* {
        return i < 2000 ? start_7 + i * 70 : nullptr;
    };
    const auto a_place = [&](const auto& p, Index k) -> const float* {
        return p != nullptr && k < 70 ? p + k : nullptr;
    };
    const auto b_line = [&](Index i) -> const float* {
        return i < 2000 ? start_8 + i : nullptr;
    };
    const auto b_place = [&](const auto& p, Index k) -> const float* {
        return p != nullptr && k < 70 ? p + k * 2000 : nullptr;
    };
    const auto a = lines<true, 1>(a_line, a_place);
    const auto b = lines<false, 4>(b_line, b_place);
    const auto out = [&](Index i, Index j, float sum) {
        if (i >= 2000 || j >= 2000) return;
        const float element_9 = (float)(sum);
        const float v_10 = maximum(element_9, 0.0f);
        w0[i * 2000 + j] = v_10;
    };
    product<Cores<Tf32, 128, 128, 4, 4>, 16, float>(value, a, b, i0_5, j0_6, 0, 70, out);
}
