# Routines in AVX2 and AVX-512 registers: copying and zeroing.

LABEL lifeboat_kernels_wide_begin

# copy(rdi to, rsi from, rdx length), ordinary stores
ROUTINE lifeboat_kernels_copy_avx2
    cmp rdx, 32
    jbe 24f
    vmovdqu ymm0, [rsi]
    cmp rdx, 128
    ja 22f
    vmovdqu ymm1, [rsi + rdx - 32]
    cmp edx, 64
    jbe 21f
    vmovdqu ymm2, [rsi + 32]
    vmovdqu ymm3, [rsi + rdx - 64]
    vmovdqu [rdi + 32], ymm2
    vmovdqu [rdi + rdx - 64], ymm3
21:  vmovdqu [rdi], ymm0
    vmovdqu [rdi + rdx - 32], ymm1
    DONE_WIDE
    # Above 128 bytes: 32 at the head, from the next multiple of 32 on 128 at a time, the last 128 overlapping.
22:  vmovdqu [rdi], ymm0
    mov rcx, rdi
    and rcx, 31
    sub rcx, 32
    sub rdi, rcx
    sub rsi, rcx
    add rdx, rcx
23:  cmp rdx, 128
    jbe 29f
    vmovdqu ymm0, [rsi]
    vmovdqu ymm1, [rsi + 32]
    vmovdqu ymm2, [rsi + 64]
    vmovdqu ymm3, [rsi + 96]
    vmovdqa [rdi], ymm0
    vmovdqa [rdi + 32], ymm1
    vmovdqa [rdi + 64], ymm2
    vmovdqa [rdi + 96], ymm3
    sub rsi, -128
    sub rdi, -128
    add rdx, -128
    jmp 23b
29:  vmovdqu ymm0, [rsi + rdx - 128]
    vmovdqu ymm1, [rsi + rdx - 96]
    vmovdqu ymm2, [rsi + rdx - 64]
    vmovdqu ymm3, [rsi + rdx - 32]
    vmovdqu [rdi + rdx - 128], ymm0
    vmovdqu [rdi + rdx - 96], ymm1
    vmovdqu [rdi + rdx - 64], ymm2
    vmovdqu [rdi + rdx - 32], ymm3
    DONE_WIDE
24:  cmp edx, 16
    jb 25f
    vmovdqu xmm0, [rsi]
    vmovdqu xmm1, [rsi + rdx - 16]
    vmovdqu [rdi], xmm0
    vmovdqu [rdi + rdx - 16], xmm1
    DONE
25:  cmp edx, 8
    jb 26f
    mov rax, [rsi]
    mov rcx, [rsi + rdx - 8]
    mov [rdi], rax
    mov [rdi + rdx - 8], rcx
    DONE
26:  cmp edx, 4
    jb 27f
    mov eax, [rsi]
    mov ecx, [rsi + rdx - 4]
    mov [rdi], eax
    mov [rdi + rdx - 4], ecx
    DONE
27:  test edx, edx
    je 28f
    mov r8, rdx
    shr r8, 1
    movzx eax, byte ptr [rsi]
    movzx ecx, byte ptr [rsi + r8]
    movzx r9d, byte ptr [rsi + rdx - 1]
    mov [rdi], al
    mov [rdi + r8], cl
    mov [rdi + rdx - 1], r9b
28:  DONE
END lifeboat_kernels_copy_avx2

# stream(rdi to, multiple of 64; rsi from; rdx length, multiple of 64, not 0; rcx step, 64 or -64): one line after another
# past the caches. With the step -64, rdi and rsi are those of the last line.
ROUTINE lifeboat_kernels_stream_avx2
21: vmovdqu ymm0, [rsi]
    vmovdqu ymm1, [rsi + 32]
    vmovntdq [rdi], ymm0
    vmovntdq [rdi + 32], ymm1
    add rsi, rcx
    add rdi, rcx
    sub rdx, 64
    jne 21b
    DONE_WIDE
END lifeboat_kernels_stream_avx2

ROUTINE lifeboat_kernels_stream_avx512
21: vmovdqu64 zmm0, [rsi]
    vmovntdq [rdi], zmm0
    add rsi, rcx
    add rdi, rcx
    sub rdx, 64
    jne 21b
    DONE_WIDE
END lifeboat_kernels_stream_avx512

# One line of each of four pages past the caches, and word ahead of time for the lines at `ahead` and in its pages.
.macro AHEAD ahead
    prefetcht0 [\ahead]
    prefetcht0 [\ahead+4096]
    prefetcht0 [\ahead+8192]
    prefetcht0 [\ahead+12288]
.endm

.macro LOAD_FOUR_LINES_AVX2 ahead
    AHEAD \ahead
    vmovdqu ymm0, [rsi]
    vmovdqu ymm1, [rsi + 32]
    vmovdqu ymm2, [rsi + 4096]
    vmovdqu ymm3, [rsi + 4096 + 32]
    vmovdqu ymm4, [rsi + 8192]
    vmovdqu ymm5, [rsi + 8192 + 32]
    vmovdqu ymm6, [rsi + 12288]
    vmovdqu ymm7, [rsi + 12288 + 32]
.endm

.macro STREAM_FOUR_LINES_AVX2
    vmovntdq [rdi], ymm0
    vmovntdq [rdi + 32], ymm1
    vmovntdq [rdi + 4096], ymm2
    vmovntdq [rdi + 4096 + 32], ymm3
    vmovntdq [rdi + 8192], ymm4
    vmovntdq [rdi + 8192 + 32], ymm5
    vmovntdq [rdi + 12288], ymm6
    vmovntdq [rdi + 12288 + 32], ymm7
.endm

.macro LOAD_FOUR_LINES_AVX512 ahead
    AHEAD \ahead
    vmovdqu64 zmm0, [rsi]
    vmovdqu64 zmm1, [rsi + 4096]
    vmovdqu64 zmm2, [rsi + 8192]
    vmovdqu64 zmm3, [rsi + 12288]
.endm

.macro STREAM_FOUR_LINES_AVX512
    vmovntdq [rdi], zmm0
    vmovntdq [rdi + 4096], zmm1
    vmovntdq [rdi + 8192], zmm2
    vmovntdq [rdi + 12288], zmm3
.endm

# stream_pages(rdi to, multiple of 64; rsi from; rdx groups of 16 KiB, not 0; rcx step, 64 or -64): four pages at a time,
# line by line. With the step -64, rdi and rsi are those of the last line of the first page.
.macro STREAM_PAGES name, level
ROUTINE \name
    # From behind the last line of one group to the first of the next.
    mov r8d, 16384
    mov rax, rcx
    shl rax, 6
    sub r8, rax
21: mov eax, 64
22: LOAD_FOUR_LINES_\level rsi+4*rcx
    STREAM_FOUR_LINES_\level
    add rsi, rcx
    add rdi, rcx
    dec eax
    jne 22b
    add rsi, r8
    add rdi, r8
    dec rdx
    jne 21b
    DONE_WIDE
END \name
.endm

STREAM_PAGES lifeboat_kernels_stream_pages_avx2, AVX2
STREAM_PAGES lifeboat_kernels_stream_pages_avx512, AVX512

# zero(rdi to, rsi length), ordinary stores
ROUTINE lifeboat_kernels_zero_avx2
    vpxor xmm0, xmm0, xmm0
    cmp rsi, 32
    jb 23f
    mov rcx, rsi
21:  cmp rcx, 64
    jb 22f
    vmovdqu [rdi], ymm0
    vmovdqu [rdi + 32], ymm0
    add rdi, 64
    sub rcx, 64
    jmp 21b
    # 0 to 63 are left, of at least 32 altogether.
22:  cmp ecx, 32
    jb 24f
    vmovdqu [rdi], ymm0
24:  vmovdqu [rdi + rcx - 32], ymm0
    DONE_WIDE
23:  xor eax, eax
    cmp esi, 16
    jb 25f
    vmovdqu [rdi], xmm0
    vmovdqu [rdi + rsi - 16], xmm0
    ret
25:  cmp esi, 8
    jb 26f
    mov [rdi], rax
    mov [rdi + rsi - 8], rax
    ret
26:  test esi, esi
    je 27f
    mov [rdi], al
    inc rdi
    dec esi
    jmp 26b
27:  ret
END lifeboat_kernels_zero_avx2

# stream_zero(rdi to, multiple of 64; rsi length, multiple of 64, not 0)
ROUTINE lifeboat_kernels_stream_zero_avx2
    vpxor xmm0, xmm0, xmm0
21:  vmovntdq [rdi], ymm0
    vmovntdq [rdi + 32], ymm0
    add rdi, 64
    sub rsi, 64
    jne 21b
    DONE_WIDE
END lifeboat_kernels_stream_zero_avx2

ROUTINE lifeboat_kernels_stream_zero_avx512
    vpxor xmm0, xmm0, xmm0
21:  vmovntdq [rdi], zmm0
    add rdi, 64
    sub rsi, 64
    jne 21b
    DONE_WIDE
END lifeboat_kernels_stream_zero_avx512
