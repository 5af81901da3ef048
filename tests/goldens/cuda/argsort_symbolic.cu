// bitonic tiles, merged
// kernel0<<<n*((m + 2047)//2048), 512>>>(n, (m + 2047)//2048, m, read 0, workspace 0)
// kernel1<<<4*n*((m + 2047)//4096), 256>>>(m, 4*((m + 2047)//4096), 2048, workspace 0, workspace 64*((m*n + 3)//4))
// kernel1<<<6*n*((m + 2047)//6144), 256>>>(m, 6*((m + 2047)//6144), 4096, workspace 64*((m*n + 3)//4), workspace 0)
// kernel1<<<10*n*((m + 2047)//10240), 256>>>(m, 10*((m + 2047)//10240), 8192, workspace 0, workspace 64*((m*n + 3)//4))
// kernel1<<<18*n*((m + 2047)//18432), 256>>>(m, 18*((m + 2047)//18432), 16384, workspace 64*((m*n + 3)//4), workspace 0)
// kernel1<<<34*n*((m + 2047)//34816), 256>>>(m, 34*((m + 2047)//34816), 32768, workspace 0, workspace 64*((m*n + 3)//4))
// kernel1<<<66*n*((m + 2047)//67584), 256>>>(m, 66*((m + 2047)//67584), 65536, workspace 64*((m*n + 3)//4), workspace 0)
// kernel1<<<130*n*((m + 2047)//133120), 256>>>(m, 130*((m + 2047)//133120), 131072, workspace 0, workspace 64*((m*n + 3)//4))
// kernel1<<<258*n*((m + 2047)//264192), 256>>>(m, 258*((m + 2047)//264192), 262144, workspace 64*((m*n + 3)//4), workspace 0)
// kernel1<<<514*n*((m + 2047)//526336), 256>>>(m, 514*((m + 2047)//526336), 524288, workspace 0, workspace 64*((m*n + 3)//4))
// kernel1<<<1026*n*((m + 2047)//1050624), 256>>>(m, 1026*((m + 2047)//1050624), 1048576, workspace 64*((m*n + 3)//4), workspace 0)
// kernel1<<<2050*n*((m + 2047)//2099200), 256>>>(m, 2050*((m + 2047)//2099200), 2097152, workspace 0, workspace 64*((m*n + 3)//4))
// kernel1<<<4098*n*((m + 2047)//4196352), 256>>>(m, 4098*((m + 2047)//4196352), 4194304, workspace 64*((m*n + 3)//4), workspace 0)
// kernel1<<<8194*n*((m + 2047)//8390656), 256>>>(m, 8194*((m + 2047)//8390656), 8388608, workspace 0, workspace 64*((m*n + 3)//4))
// kernel1<<<16386*n*((m + 2047)//16779264), 256>>>(m, 16386*((m + 2047)//16779264), 16777216, workspace 64*((m*n + 3)//4), workspace 0)
// kernel1<<<32770*n*((m + 2047)//33556480), 256>>>(m, 32770*((m + 2047)//33556480), 33554432, workspace 0, workspace 64*((m*n + 3)//4))
// kernel1<<<65538*n*((m + 2047)//67110912), 256>>>(m, 65538*((m + 2047)//67110912), 67108864, workspace 64*((m*n + 3)//4), workspace 0)
// kernel1<<<131074*n*((m + 2047)//134219776), 256>>>(m, 131074*((m + 2047)//134219776), 134217728, workspace 0, workspace 64*((m*n + 3)//4))
// kernel1<<<262146*n*((m + 2047)//268437504), 256>>>(m, 262146*((m + 2047)//268437504), 268435456, workspace 64*((m*n + 3)//4), workspace 0)
// kernel1<<<524290*n*((m + 2047)//536872960), 256>>>(m, 524290*((m + 2047)//536872960), 536870912, workspace 0, workspace 64*((m*n + 3)//4))
// kernel1<<<1048578*n*((m + 2047)//1073743872), 256>>>(m, 1048578*((m + 2047)//1073743872), 1073741824, workspace 64*((m*n + 3)//4), workspace 0)
// kernel2<<<(m*n + 255)//256, 256>>>(m*n, m, workspace 0, workspace 64*((m*n + 3)//4), write 0)
// workspace 128*((m*n + 3)//4)

extern "C" __global__ void __launch_bounds__(512) kernel0(const long long n0_, const long long n1_, const long long n2_, const bf16* r0, i64* t4) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index n2 = (Index)n2_;
    __shared__ Fitted records[2048];
    const Index line_1 = (Index)blockIdx.x / n1;
    const Index v_2 = (Index)blockIdx.x % n1;
    const Index low_3 = v_2 * 2048;
    const int count = (int)least<Index>(n2 - low_3, 2048);
    int size = 1;
    while (size < count) size *= 2;
    for (int slot = threadIdx.x; slot < size; slot += 512) {
        Fitted x = last_record<Fitted>();
        if (slot < count && line_1 < n0) {
            const Index i_4 = low_3 + slot;
            x = record<Fitted>(sort_key(r0[line_1 * n2 + i_4]), (u64)i_4);
        }
        records[slot] = x;
    }
    sort_shared(records, size, size);
    for (int slot = threadIdx.x; slot < size; slot += 512) {
        if (slot < count && line_1 < n0) {
            const Index i_5 = low_3 + slot;
            Fitted* const at_6 = reinterpret_cast<Fitted*>(t4);
            at_6[line_1 * n2 + i_5] = records[slot];
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) kernel1(const long long n0_, const long long n1_, const long long width, i64* t3, i64* t4) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index line_1 = (Index)blockIdx.x / n1;
    const Index low_2 = (Index)blockIdx.x % n1 * 2048;
    if (low_2 >= n0) return;
    Fitted* const at_3 = reinterpret_cast<Fitted*>(t3);
    Fitted* const at_4 = reinterpret_cast<Fitted*>(t4);
    merge_tile<Fitted>(at_3 + line_1 * n0, at_4 + line_1 * n0, n0, low_2, (Index)width);
}

extern "C" __global__ void __launch_bounds__(256) kernel2(const long long n0_, const long long n1_, i64* t2, i64* t3, i64* w0) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < n0) {
        const Index i_2 = number_1 % n1;
        const Index rest_3 = number_1 / n1;
        Fitted* const at_4 = reinterpret_cast<Fitted*>(t2);
        Fitted* const at_5 = reinterpret_cast<Fitted*>(t3);
        int passes_6 = 0;
        while (((Index)2048 << passes_6) < n1) ++passes_6;
        const Fitted* sorted_7 = passes_6 % 2 == 0 ? at_4 : at_5;
        const i64 index_8 = index_of(sorted_7[rest_3 * n1 + i_2]);
        w0[rest_3 * n1 + i_2] = index_8;
    }
}
