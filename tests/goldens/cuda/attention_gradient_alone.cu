// attention, a block for each query
// gradients of attention, a block for each line
// kernel0<<<6*n, 256>>>(n, read 1, 900*n, 300*n, read 2, read 3, workspace 192*((3*n + 7)//8), workspace 0, 3*n, workspace 64*((3*n + 7)//8), workspace 7168*n + 192*((3*n + 7)//8) + 64*((n + 1)//2))
// kernel1<<<(3*n + 3)//4, 256>>>(n, read 0, 900*n, 300*n, 6*n, workspace 192*((3*n + 7)//8), workspace 128*((3*n + 7)//8), 3*n)
// kernel2<<<6*n, 256>>>(n, read 2, 900*n, 300*n, read 3, read 1, read 0, workspace 0, 3*n, workspace 64*((3*n + 7)//8), workspace 128*((3*n + 7)//8), write 0, workspace 7168*n + 192*((3*n + 7)//8) + 64*((3*n*n + 7)//8) + 64*((n + 1)//2), 2*n)
// workspace 7168*n + 192*((3*n + 7)//8) + 64*((3*n*n + 3)//4) + 64*((3*n*n + 7)//8) + 64*((n + 1)//2)

extern "C" __global__ void __launch_bounds__(256) kernel0(const long long n0_, const float* r1, const long long n1_, const long long n2_, const float* r2, const float* r3, float* t6, float* t7, const long long n3_, float* t9, float* t10) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index n2 = (Index)n2_;
    const Index n3 = (Index)n3_;
    const Index i_1 = (Index)blockIdx.x % n0;
    const Index rest_2 = (Index)blockIdx.x / n0;
    const Index i_3 = rest_2 % 3;
    const Index rest_4 = rest_2 / 3;
    const auto q = [&](Index e) -> float {
        if (i_1 >= n0 || e >= 300) return 0;
        return r1[rest_4 * n1 + i_3 * n2 + i_1 * 300 + e];
    };
    const auto k = [&](Index j, Index e) -> float {
        if (j >= n0 || e >= 300) return 0;
        return r2[rest_4 * n1 + i_3 * n2 + j * 300 + e];
    };
    const auto v = [&](Index j, Index v) -> float {
        if (j >= n0 || v >= 300) return 0;
        return r3[rest_4 * n1 + i_3 * n2 + j * 300 + v];
    };
    const auto score = [&](Index j, float sum) -> float {
        if (i_1 >= n0 || j >= n0) return lowest<float>();
        sum *= 0.25f;
        return sum;
    };
    const auto product = [&](Index j) -> float {
        float sum = 0;
        for (Index e = 0; e < 300; e++) sum = fused_sum(q(e), k(j, e), sum);
        return sum;
    };
    const auto out = [&](Index v, float sum) {
        t6[rest_4 * n1 + i_3 * n2 + i_1 * 300 + v] = sum;
    };
    const auto seen = [&](float base, float divisor) {
        t7[rest_4 * n3 + i_3 * n0 + i_1] = base;
        t9[rest_4 * n3 + i_3 * n0 + i_1] = 1 / divisor;
    };
    attend_alone<float, false, 256>(&t10[((Index)blockIdx.x) * n0], product, v, score, n0, 300, out, seen);
}

extern "C" __global__ void __launch_bounds__(256) kernel1(const long long n0_, const float* r0, const long long n1_, const long long n2_, const long long n3_, float* t5, float* t6, const long long n4_) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index n2 = (Index)n2_;
    const Index n3 = (Index)n3_;
    const Index n4 = (Index)n4_;
    const Index row_1 = (Index)blockIdx.x * 8 + threadIdx.x / 32;
    const Index i_2 = row_1 % n0;
    const Index rest_3 = row_1 / n0;
    const Index i_4 = rest_3 % 3;
    const Index rest_5 = rest_3 / 3;
    const auto g = [&](Index i, Index v) -> float {
        if (i >= n0 || v >= 300) return 0;
        return r0[rest_5 * n1 + i_4 * n2 + i * 300 + v];
    };
    float sum = 0;
    for (Index v = threadIdx.x % 32; row_1 < n3 && v < 300; v += 32) {
        sum = fused_sum(g(i_2, v), t5[rest_5 * n1 + i_4 * n2 + i_2 * 300 + v], sum);
    }
    sum = joined_lanes<Sum<float>, 32>(sum);
    if (threadIdx.x % 32 == 0 && row_1 < n3) t6[rest_5 * n4 + i_4 * n0 + i_2] = sum;
}

extern "C" __global__ void __launch_bounds__(256) kernel2(const long long n0_, const float* r2, const long long n1_, const long long n2_, const float* r3, const float* r1, const float* r0, float* t7, const long long n3_, float* t9, float* t10, float* w0, float* t12, const long long n4_) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index n2 = (Index)n2_;
    const Index n3 = (Index)n3_;
    const Index n4 = (Index)n4_;
    const Index i_1 = (Index)blockIdx.x % n0;
    const Index rest_2 = (Index)blockIdx.x / n0;
    const Index i_3 = rest_2 % 3;
    const Index rest_4 = rest_2 / 3;
    const auto k = [&](Index e) -> float {
        if (i_1 >= n0 || e >= 300) return 0;
        return r2[rest_4 * n1 + i_3 * n2 + i_1 * 300 + e];
    };
    const auto v = [&](Index e) -> float {
        if (i_1 >= n0 || e >= 300) return 0;
        return r3[rest_4 * n1 + i_3 * n2 + i_1 * 300 + e];
    };
    const auto q = [&](Index j, Index e) -> float {
        if (j >= n0 || e >= 300) return 0;
        return r1[rest_4 * n1 + i_3 * n2 + j * 300 + e];
    };
    const auto g = [&](Index j, Index e) -> float {
        if (j >= n0 || e >= 300) return 0;
        return r0[rest_4 * n1 + i_3 * n2 + j * 300 + e];
    };
    const auto first = [&](Index j) -> float {
        float sum = 0;
        for (Index e = 0; e < 300; e++) sum = fused_sum(k(e), q(j, e), sum);
        return sum;
    };
    const auto second = [&](Index j) -> float {
        float sum = 0;
        for (Index e = 0; e < 300; e++) sum = fused_sum(v(e), g(j, e), sum);
        return sum;
    };
    const auto score = [&](Index j, float sum) -> float {
        if (j >= n0 || i_1 >= n0) return lowest<float>();
        sum *= 0.25f;
        return sum;
    };
    const auto weigh = [&](Index j, float& share, float& cotangent) {
        const float found = score(j, share);
        if (found == lowest<float>()) {
            share = cotangent = 0;
            return;
        }
        share = exponential(found - t7[rest_4 * n3 + i_3 * n0 + j]) * t9[rest_4 * n3 + i_3 * n0 + j];
        cotangent = share * (cotangent - t10[rest_4 * n3 + i_3 * n0 + j]) * 0.25f;
    };
    const auto out_first = [&](Index e, float sum) {
        if (i_1 >= n0 || e >= 300) return;
        w0[rest_4 * n1 + i_3 * n2 + i_1 * 300 + e] = sum;
    };
    const auto out_second = [&](Index e, float sum) {
        if (i_1 >= n0 || e >= 300) return;
    };
    meet_alone<float, true, 256>(&t12[((Index)blockIdx.x) * n4], first, second, q, g, weigh, n0, 300, 300, out_first, out_second);
}
