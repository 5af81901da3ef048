// teams of 32 threads for a result
// not by cublas, since one row is only read
// kernel0<<<5, 256>>>(read 1, read 0, k, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r1, const float* r0, const long long n0_, float* w0) {
    const Index n0 = (Index)n0_;
    const Index j_1 = (Index)blockIdx.x * 8 + threadIdx.x / 32;
    const float* start_2 = &r1[0];
    const float* start_3 = &r0[0];
    const auto value = [](const float& x) -> float { return (float)x; };
    const auto a_line = [&](Index i) -> const float* {
        return i < 1 ? start_2 + 0 : nullptr;
    };
    const auto a_place = [&](const auto& p, Index k) -> const float* {
        return p != nullptr && k < n0 ? p + k : nullptr;
    };
    const auto a_at = [&](const auto& p, Index k) -> float {
        const float* const found = a_place(p, k);
        return found != nullptr ? value(*found) : 0;
    };
    const auto b_line = [&](Index i) -> const float* {
        return i < 40 ? start_3 + i * n0 : nullptr;
    };
    const auto b_place = [&](const auto& p, Index k) -> const float* {
        return p != nullptr && k < n0 ? p + k : nullptr;
    };
    const auto b_at = [&](const auto& p, Index k) -> float {
        const float* const found = b_place(p, k);
        return found != nullptr ? value(*found) : 0;
    };
    const auto row = a_line(0);
    const auto column = b_line(j_1);
    float sums[1] = {};
    #pragma unroll 4
    for (Index k = threadIdx.x % 32; k < n0; k += 32) {
        sums[0] = fused_sum(a_at(row, k), b_at(column, k), sums[0]);
    }
    sums[0] = joined<Sum<float>, 32, 256>(sums[0]);
    if (threadIdx.x % 32 == 0 && j_1 < 40) {
        const float element_4 = (float)(sums[0]);
        w0[j_1] = element_4;
    }
}
