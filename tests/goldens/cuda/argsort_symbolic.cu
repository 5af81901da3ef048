// bitonic tiles, merged
// kernel0<<<3*((length + 2047)//2048), 512>>>((length + 2047)//2048, length, read 0, workspace 0)
// kernel1<<<12*((length + 2047)//4096), 256>>>(length, 4*((length + 2047)//4096), 2048, workspace 0, workspace 64*((3*length + 3)//4))
// kernel1<<<18*((length + 2047)//6144), 256>>>(length, 6*((length + 2047)//6144), 4096, workspace 64*((3*length + 3)//4), workspace 0)
// kernel1<<<30*((length + 2047)//10240), 256>>>(length, 10*((length + 2047)//10240), 8192, workspace 0, workspace 64*((3*length + 3)//4))
// kernel1<<<54*((length + 2047)//18432), 256>>>(length, 18*((length + 2047)//18432), 16384, workspace 64*((3*length + 3)//4), workspace 0)
// kernel1<<<102*((length + 2047)//34816), 256>>>(length, 34*((length + 2047)//34816), 32768, workspace 0, workspace 64*((3*length + 3)//4))
// kernel1<<<198*((length + 2047)//67584), 256>>>(length, 66*((length + 2047)//67584), 65536, workspace 64*((3*length + 3)//4), workspace 0)
// kernel1<<<390*((length + 2047)//133120), 256>>>(length, 130*((length + 2047)//133120), 131072, workspace 0, workspace 64*((3*length + 3)//4))
// kernel1<<<774*((length + 2047)//264192), 256>>>(length, 258*((length + 2047)//264192), 262144, workspace 64*((3*length + 3)//4), workspace 0)
// kernel1<<<1542*((length + 2047)//526336), 256>>>(length, 514*((length + 2047)//526336), 524288, workspace 0, workspace 64*((3*length + 3)//4))
// kernel1<<<3078*((length + 2047)//1050624), 256>>>(length, 1026*((length + 2047)//1050624), 1048576, workspace 64*((3*length + 3)//4), workspace 0)
// kernel1<<<6150*((length + 2047)//2099200), 256>>>(length, 2050*((length + 2047)//2099200), 2097152, workspace 0, workspace 64*((3*length + 3)//4))
// kernel1<<<12294*((length + 2047)//4196352), 256>>>(length, 4098*((length + 2047)//4196352), 4194304, workspace 64*((3*length + 3)//4), workspace 0)
// kernel1<<<24582*((length + 2047)//8390656), 256>>>(length, 8194*((length + 2047)//8390656), 8388608, workspace 0, workspace 64*((3*length + 3)//4))
// kernel1<<<49158*((length + 2047)//16779264), 256>>>(length, 16386*((length + 2047)//16779264), 16777216, workspace 64*((3*length + 3)//4), workspace 0)
// kernel1<<<98310*((length + 2047)//33556480), 256>>>(length, 32770*((length + 2047)//33556480), 33554432, workspace 0, workspace 64*((3*length + 3)//4))
// kernel1<<<196614*((length + 2047)//67110912), 256>>>(length, 65538*((length + 2047)//67110912), 67108864, workspace 64*((3*length + 3)//4), workspace 0)
// kernel1<<<393222*((length + 2047)//134219776), 256>>>(length, 131074*((length + 2047)//134219776), 134217728, workspace 0, workspace 64*((3*length + 3)//4))
// kernel1<<<786438*((length + 2047)//268437504), 256>>>(length, 262146*((length + 2047)//268437504), 268435456, workspace 64*((3*length + 3)//4), workspace 0)
// kernel1<<<1572870*((length + 2047)//536872960), 256>>>(length, 524290*((length + 2047)//536872960), 536870912, workspace 0, workspace 64*((3*length + 3)//4))
// kernel1<<<3145734*((length + 2047)//1073743872), 256>>>(length, 1048578*((length + 2047)//1073743872), 1073741824, workspace 64*((3*length + 3)//4), workspace 0)
// kernel2<<<(3*length + 255)//256, 256>>>(3*length, length, workspace 0, workspace 64*((3*length + 3)//4), write 0)
// workspace 128*((3*length + 3)//4)

extern "C" __global__ void __launch_bounds__(512) kernel0(const long long n0_, const long long n1_, const bf16* r0, i64* t3) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    __shared__ Fitted records[2048];
    const Index line_1 = (Index)blockIdx.x / n0;
    const Index v_2 = (Index)blockIdx.x % n0;
    const Index low_3 = v_2 * 2048;
    const int count_4 = (int)least<Index>(n1 - low_3, 2048);
    int size_5 = 1;
    while (size_5 < count_4) size_5 *= 2;
    const int beside_6 = (n0 == 1 && size_5 < 1024 ? 1024 / size_5 : 1);
    const Index first_7 = line_1 * beside_6;
    if (first_7 >= 3) return;
    for (int slot = threadIdx.x; slot < beside_6 * size_5; slot += 512) {
        const int of_8 = slot / size_5;
        const int at_9 = slot % size_5;
        const Index line_10 = first_7 + of_8;
        Fitted x = last_record<Fitted>();
        if (at_9 < count_4 && line_10 < 3) {
            const Index i_11 = low_3 + at_9;
            x = record<Fitted>(sort_key(r0[line_10 * n1 + i_11]), (u64)i_11);
        }
        records[of_8 * size_5 + at_9] = x;
    }
    sort_shared(records, size_5, beside_6 * size_5);
    for (int slot = threadIdx.x; slot < beside_6 * size_5; slot += 512) {
        const int of_12 = slot / size_5;
        const int at_13 = slot % size_5;
        const Index line_14 = first_7 + of_12;
        if (at_13 < count_4 && line_14 < 3) {
            const Index i_15 = low_3 + at_13;
            Fitted* const at_16 = reinterpret_cast<Fitted*>(t3);
            at_16[line_14 * n1 + i_15] = records[of_12 * size_5 + at_13];
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
