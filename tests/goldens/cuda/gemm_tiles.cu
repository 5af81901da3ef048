// tiles of 16x64x16
// not by cublas, whose launch takes longer
// kernel0<<<(m + 15)//16, 64>>>((m + 15)//16, read 0, read 1, m, read 2, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(64) kernel0(const long long n0_, const float* r0, const float* r1, const long long n1_, const float* r2, float* w0) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index tile_1 = (Index)blockIdx.x % (n0 * 1);
    const Index group_2 = tile_1 / (8 * 1) * 8;
    const Index height_3 = least<Index>(n0 - group_2, 8);
    const Index inside_4 = tile_1 % (8 * 1);
    const Index i0_5 = (group_2 + inside_4 % height_3) * 16;
    const Index j0_6 = inside_4 / height_3 * 64;
    const float* start_7 = &r0[0];
    const float* start_8 = &r1[0];
    const auto value = [](const float& x) -> float { return (float)x; };
    const auto a_line = [&](Index i) -> const float* {
        return i < n1 ? start_7 + i * 70 : nullptr;
    };
    const auto a_place = [&](const auto& p, Index k) -> const float* {
        return p != nullptr && k < 70 ? p + k : nullptr;
    };
    const auto b_line = [&](Index i) -> const float* {
        return i < 33 ? start_8 + i : nullptr;
    };
    const auto b_place = [&](const auto& p, Index k) -> const float* {
        return p != nullptr && k < 70 ? p + k * 33 : nullptr;
    };
    const auto a = lines<true, 1>(a_line, a_place);
    const auto b = lines<false, 1>(b_line, b_place);
    const auto out = [&](Index i, Index j, float sum) {
        if (i >= n1 || j >= 33) return;
        const float element_9 = (float)(sum);
        const float x_10 = r2[j];
        const float v_11 = element_9 + x_10;
        const float v_12 = maximum(v_11, 0.0f);
        w0[i * 33 + j] = v_12;
    };
    product<Plain<float, 16, 64, 4, 4>, 16, float>(value, a, b, i0_5, j0_6, 0, 70, out);
}
