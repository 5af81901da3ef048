// teams of 8 threads for a result
// not by cublas, since one row is only read
// kernel0<<<2, 256>>>(read 0, read 1, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, const float* r1, float* w0) {
    const Index j_1 = (Index)blockIdx.x * 32 + threadIdx.x % 32;
    const float* start_2 = &r0[0];
    const float* start_3 = &r1[0];
    const auto value = [](const float& x) -> float { return (float)x; };
    const auto a_line = [&](Index i) -> const float* {
        return i < 1 ? start_2 + 0 : nullptr;
    };
    const auto a_place = [&](const auto& p, Index k) -> const float* {
        return p != nullptr && k < 70 ? p + k : nullptr;
    };
    const auto a_at = [&](const auto& p, Index k) -> float {
        const float* const found = a_place(p, k);
        return found != nullptr ? value(*found) : 0;
    };
    const auto b_line = [&](Index i) -> const float* {
        return i < 40 ? start_3 + i : nullptr;
    };
    const auto b_place = [&](const auto& p, Index k) -> const float* {
        return p != nullptr && k < 70 ? p + k * 40 : nullptr;
    };
    const auto b_at = [&](const auto& p, Index k) -> float {
        const float* const found = b_place(p, k);
        return found != nullptr ? value(*found) : 0;
    };
    const auto row = a_line(0);
    const auto column = b_line(j_1);
    float sums[1] = {};
    #pragma unroll 4
    for (Index k = threadIdx.x / 32; k < 70; k += 8) {
        sums[0] = fused_sum(a_at(row, k), b_at(column, k), sums[0]);
    }
    joined_columns<Sum<float>, 8, 32>(sums);
    if (threadIdx.x / 32 == 0 && j_1 < 40) {
        const float element_4 = (float)(sums[0]);
        w0[j_1] = element_4;
    }
}
