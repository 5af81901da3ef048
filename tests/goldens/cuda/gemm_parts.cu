// tiles of 16x64x16, k in parts of 560
// not by cublas, which takes no int8
// kernel0<<<9, 64>>>(read 0, read 1, workspace 0)
// kernel1<<<1, 256>>>(workspace 0, write 0)
// workspace 6528

extern "C" __global__ void __launch_bounds__(64) kernel0(const i8* r0, const i8* r1, i32* t2) {
    const Index tile_1 = (Index)blockIdx.x % (1 * 1);
    const Index group_2 = tile_1 / (8 * 1) * 8;
    const Index height_3 = least<Index>(1 - group_2, 8);
    const Index inside_4 = tile_1 % (8 * 1);
    const Index i0_5 = (group_2 + inside_4 % height_3) * 16;
    const Index j0_6 = inside_4 / height_3 * 64;
    const i8* start_7 = &r0[0];
    const i8* start_8 = &r1[0];
    const auto value = [](const i8& x) -> u32 { return (u32)x; };
    const auto a_line = [&](Index i) -> const i8* {
        return i < 9 ? start_7 + i * 5000 : nullptr;
    };
    const auto a_place = [&](const auto& p, Index k) -> const i8* {
        return p != nullptr && k < 5000 ? p + k : nullptr;
    };
    const auto b_line = [&](Index i) -> const i8* {
        return i < 20 ? start_8 + i : nullptr;
    };
    const auto b_place = [&](const auto& p, Index k) -> const i8* {
        return p != nullptr && k < 5000 ? p + k * 20 : nullptr;
    };
    const auto a = lines<true, 1>(a_line, a_place);
    const auto b = lines<false, 1>(b_line, b_place);
    const auto out = [&](Index i, Index j, u32 sum) {
        if (i >= 9 || j >= 20) return;
        ((u32*)t2)[(((Index)blockIdx.x / (1 * 1)) * 9 + i) * 20 + j] = sum;
    };
    product<Plain<u32, 16, 64, 4, 4>, 16, i8>(value, a, b, i0_5, j0_6, (Index)blockIdx.x / (1 * 1) * 560, least<Index>((Index)blockIdx.x / (1 * 1) * 560 + 560, 5000), out);
}

extern "C" __global__ void __launch_bounds__(256) kernel1(i32* t0, i8* w0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 180) {
        const Index i_2 = number_1 % 20;
        const Index rest_3 = number_1 / 20;
        const Index at_4 = (rest_3) * 20 + i_2;
        u32 sum = 0;
        for (Index part = 0; part < 9; part++) {
            sum += ((const u32*)t0)[part * 180 + at_4];
        }
        const i8 element_5 = (i8)(sum);
        w0[rest_3 * 20 + i_2] = element_5;
    }
}
