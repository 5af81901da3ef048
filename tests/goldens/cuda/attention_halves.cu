// attention, 64 queries by 64 keys (Pair_bf16)
// kernel0<<<6*((n + 63)//64), 128>>>((n + 63)//64, n, read 0, 192*n, read 1, read 2, read 3, write 0, 64*n)
// workspace 0

extern "C" __global__ void __launch_bounds__(128) kernel0(const long long n0_, const long long n1_, const bf16* r0, const long long n2_, const bf16* r1, const bf16* r2, const u8* r3, bf16* w0, const long long n3_) {
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
        if ((first_5 + i) >= n1 || e >= 64) return 0;
        return widened(r0[rest_4 * n2 + i_3 * 64 + ((first_5 + i)) * 192 + e]);
    };
    const auto k = [&](Index j, int e) -> float {
        if (j >= n1 || e >= 64) return 0;
        return widened(r1[rest_4 * n2 + i_3 * 64 + j * 192 + e]);
    };
    const auto v = [&](Index j, int v) -> float {
        if (j >= n1 || v >= 64) return 0;
        return widened(r2[rest_4 * n2 + i_3 * 64 + j * 192 + v]);
    };
    const auto score = [&](int i, Index j, float sum) -> float {
        if ((first_5 + i) >= n1 || j >= n1) return lowest<float>();
        sum *= 0.125f;
        return (r3[((first_5 + i)) * n1 + j] != 0) ? sum : lowest<float>();
    };
    const auto out = [&](int i, int v, float sum) {
        if ((first_5 + i) >= n1 || v >= 64) return;
        w0[rest_4 * n2 + i_3 * n3 + ((first_5 + i)) * 64 + v] = narrowed<bf16>(widened(narrowed<bf16>(sum)));
    };
    const auto seen = [&](int i, float base, float divisor) {
        if ((first_5 + i) >= n1) return;
    };
    attend<Cores<Pair_bf16, 64, 64, 1, 8>, Cores<Pair_bf16, 64, 64, 1, 8>, 32, true>(q, k, v, score, n1, out, seen);
}
