// attention, 64 queries by 32 keys
// gradients of attention, 64 by 64
// kernel0<<<6*((n + 63)//64), 128>>>((n + 63)//64, n, read 1, 60*n, 20*n, read 2, read 3, workspace 192*((3*n + 7)//8), workspace 0, 3*n, workspace 64*((3*n + 7)//8))
// kernel1<<<(3*n + 3)//4, 256>>>(n, read 0, 60*n, 20*n, 6*n, workspace 192*((3*n + 7)//8), workspace 128*((3*n + 7)//8), 3*n)
// kernel2<<<6*((n + 63)//64), 256>>>((n + 63)//64, n, read 2, 60*n, 20*n, read 3, read 1, read 0, workspace 0, 3*n, workspace 64*((3*n + 7)//8), workspace 128*((3*n + 7)//8), write 0)
// workspace 448*n + 192*((3*n + 7)//8) + 64*((n + 1)//2)

extern "C" __global__ void __launch_bounds__(128) kernel0(const long long n0_, const long long n1_, const float* r1, const long long n2_, const long long n3_, const float* r2, const float* r3, float* t7, float* t8, const long long n4_, float* t10) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index n2 = (Index)n2_;
    const Index n3 = (Index)n3_;
    const Index n4 = (Index)n4_;
    const Index i_1 = (Index)blockIdx.x % n0;
    const Index rest_2 = (Index)blockIdx.x / n0;
    const Index i_3 = rest_2 % 3;
    const Index rest_4 = rest_2 / 3;
    const Index first_5 = i_1 * 64;
    const auto q = [&](int i, int e) -> float {
        if ((first_5 + i) >= n1 || e >= 20) return 0;
        return r1[rest_4 * n2 + i_3 * n3 + ((first_5 + i)) * 20 + e];
    };
    const auto k = [&](Index j, int e) -> float {
        if (j >= n1 || e >= 20) return 0;
        return r2[rest_4 * n2 + i_3 * n3 + j * 20 + e];
    };
    const auto v = [&](Index j, int v) -> float {
        if (j >= n1 || v >= 20) return 0;
        return r3[rest_4 * n2 + i_3 * n3 + j * 20 + v];
    };
    const auto score = [&](int i, Index j, float sum) -> float {
        if ((first_5 + i) >= n1 || j >= n1) return lowest<float>();
        if ((first_5 + i) < j) return lowest<float>();
        sum *= 0.25f;
        return sum;
    };
    const auto out = [&](int i, int v, float sum) {
        if ((first_5 + i) >= n1 || v >= 20) return;
        t7[rest_4 * n2 + i_3 * n3 + ((first_5 + i)) * 20 + v] = sum;
    };
    const auto seen = [&](int i, float base, float divisor) {
        if ((first_5 + i) >= n1) return;
        t8[rest_4 * n4 + i_3 * n1 + ((first_5 + i))] = base;
        t10[rest_4 * n4 + i_3 * n1 + ((first_5 + i))] = 1 / divisor;
    };
    attend<Plain<float, 64, 32, 4, 4>, Plain<float, 64, 32, 4, 4>, 24, false>(q, k, v, score, least<Index>(n1, first_5 + 64), out, seen);
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
        if (i >= n0 || v >= 20) return 0;
        return r0[rest_5 * n1 + i_4 * n2 + i * 20 + v];
    };
    float sum = 0;
    for (Index v = threadIdx.x % 32; row_1 < n3 && v < 20; v += 32) {
        sum = fused_sum(g(i_2, v), t5[rest_5 * n1 + i_4 * n2 + i_2 * 20 + v], sum);
    }
    sum = joined_lanes<Sum<float>, 32>(sum);
    if (threadIdx.x % 32 == 0 && row_1 < n3) t6[rest_5 * n4 + i_4 * n0 + i_2] = sum;
}

extern "C" __global__ void __launch_bounds__(256) kernel2(const long long n0_, const long long n1_, const float* r2, const long long n2_, const long long n3_, const float* r3, const float* r1, const float* r0, float* t8, const long long n4_, float* t10, float* t11, float* w0) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index n2 = (Index)n2_;
    const Index n3 = (Index)n3_;
    const Index n4 = (Index)n4_;
    const Index i_1 = (Index)blockIdx.x % n0;
    const Index rest_2 = (Index)blockIdx.x / n0;
    const Index i_3 = rest_2 % 3;
    const Index rest_4 = rest_2 / 3;
    const Index start_5 = i_1 * 64;
    const auto k = [&](int i, int e) -> float {
        if ((start_5 + i) >= n1 || e >= 20) return 0;
        return r2[rest_4 * n2 + i_3 * n3 + ((start_5 + i)) * 20 + e];
    };
    const auto v = [&](int i, int e) -> float {
        if ((start_5 + i) >= n1 || e >= 20) return 0;
        return r3[rest_4 * n2 + i_3 * n3 + ((start_5 + i)) * 20 + e];
    };
    const auto q = [&](Index j, int e) -> float {
        if (j >= n1 || e >= 20) return 0;
        return r1[rest_4 * n2 + i_3 * n3 + j * 20 + e];
    };
    const auto g = [&](Index j, int e) -> float {
        if (j >= n1 || e >= 20) return 0;
        return r0[rest_4 * n2 + i_3 * n3 + j * 20 + e];
    };
    const auto score = [&](int i, Index j, float sum) -> float {
        if (j >= n1 || (start_5 + i) >= n1) return lowest<float>();
        if (j < (start_5 + i)) return lowest<float>();
        sum *= 0.25f;
        return sum;
    };
    const auto weigh = [&](int i, Index j, float& share, float& cotangent) {
        const float found = score(i, j, share);
        if (found == lowest<float>()) {
            share = cotangent = 0;
            return;
        }
        share = exponential(found - t8[rest_4 * n4 + i_3 * n1 + j]) * t10[rest_4 * n4 + i_3 * n1 + j];
        cotangent = share * (cotangent - t11[rest_4 * n4 + i_3 * n1 + j]) * 0.25f;
    };
    const auto out_first = [&](int i, int e, float sum) {
        if ((start_5 + i) >= n1 || e >= 20) return;
        w0[rest_4 * n2 + i_3 * n3 + ((start_5 + i)) * 20 + e] = sum;
    };
    const auto out_second = [&](int i, int e, float sum) {
        if ((start_5 + i) >= n1 || e >= 20) return;
    };
    meet<Plain<float, 64, 64, 4, 4>, Plain<float, 64, 64, 4, 4>, Plain<float, 64, 64, 4, 4>, 24, 24, true>(k, v, q, g, weigh, start_5 / 64 * 64, n1, out_first, out_second);
}
