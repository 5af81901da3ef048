// attention, a block for each query
// kernel0<<<6*n, 256>>>(n, read 0, 48*n, read 1, read 2, write 0, 16*n, workspace 0)
// workspace 64*((3*n*n + 3)//4)

extern "C" __global__ void __launch_bounds__(256) kernel0(const long long n0_, const double* r0, const long long n1_, const double* r1, const double* r2, double* w0, const long long n2_, double* t7) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index n2 = (Index)n2_;
    const Index i_1 = (Index)blockIdx.x % n0;
    const Index rest_2 = (Index)blockIdx.x / n0;
    const Index i_3 = rest_2 % 3;
    const Index rest_4 = rest_2 / 3;
    const auto q = [&](Index e) -> double {
        if (i_1 >= n0 || e >= 16) return 0;
        return r0[rest_4 * n1 + i_3 * 16 + i_1 * 48 + e];
    };
    const auto k = [&](Index j, Index e) -> double {
        if (j >= n0 || e >= 16) return 0;
        return r1[rest_4 * n1 + i_3 * 16 + j * 48 + e];
    };
    const auto v = [&](Index j, Index v) -> double {
        if (j >= n0 || v >= 16) return 0;
        return r2[rest_4 * n1 + i_3 * 16 + j * 48 + v];
    };
    const auto score = [&](Index j, double sum) -> double {
        if (i_1 >= n0 || j >= n0) return lowest<double>();
        sum *= 0.25;
        return sum;
    };
    const auto product = [&](Index j) -> double {
        double sum = 0;
        for (Index e = 0; e < 16; e++) sum = fused_sum(q(e), k(j, e), sum);
        return sum;
    };
    const auto out = [&](Index v, double sum) {
        w0[rest_4 * n1 + i_3 * n2 + i_1 * 16 + v] = sum;
    };
    const auto seen = [&](double base, double divisor) {
    };
    attend_alone<double, false, 256>(&t7[((Index)blockIdx.x) * n0], product, v, score, n0, 16, out, seen);
}
