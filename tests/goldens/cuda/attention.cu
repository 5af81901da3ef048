// attention, 64 queries by 32 keys
// kernel0<<<6*((n + 63)//64), 128>>>((n + 63)//64, n, read 0, 60*n, read 1, read 2, write 0, 20*n)
// workspace 0

extern "C" __global__ void __launch_bounds__(128) kernel0(const long long n0_, const long long n1_, const float* r0, const long long n2_, const float* r1, const float* r2, float* w0, const long long n3_) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index n2 = (Index)n2_;
    const Index n3 = (Index)n3_;
    const Index i_1 = (Index)blockIdx.x % n0;
    const Index rest_2 = (Index)blockIdx.x / n0;
    const Index i_3 = rest_2 % 3;
    const Index rest_4 = rest_2 / 3;
    const Index first_5 = i_1 * 64;
    const auto q = [&](int i, int e) -> float {
        if ((first_5 + i) >= n1 || e >= 20) return 0;
        return r0[rest_4 * n2 + i_3 * 20 + ((first_5 + i)) * 60 + e];
    };
    const auto k = [&](Index j, int e) -> float {
        if (j >= n1 || e >= 20) return 0;
        return r1[rest_4 * n2 + i_3 * 20 + j * 60 + e];
    };
    const auto v = [&](Index j, int v) -> float {
        if (j >= n1 || v >= 20) return 0;
        return r2[rest_4 * n2 + i_3 * 20 + j * 60 + v];
    };
    const auto score = [&](int i, Index j, float sum) -> float {
        if ((first_5 + i) >= n1 || j >= n1) return lowest<float>();
        if ((first_5 + i) < j) return lowest<float>();
        sum *= 0.22360679507255554f;
        return sum;
    };
    const auto out = [&](int i, int v, float sum) {
        if ((first_5 + i) >= n1 || v >= 20) return;
        w0[rest_4 * n2 + i_3 * n3 + ((first_5 + i)) * 20 + v] = sum;
    };
    const auto seen = [&](int i, float base, float divisor) {
        if ((first_5 + i) >= n1) return;
    };
    attend<Plain<float, 64, 32, 4, 4>, Plain<float, 64, 32, 4, 4>, 24, false>(q, k, v, score, least<Index>(n1, first_5 + 64), out, seen);
}
