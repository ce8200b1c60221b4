# CRC-32C, continuing an unfinished remainder; the last part of the AVX half.
# crc(rdi remainder, rsi from, rdx length, rcx constants): value = remainder. The constants are those of checksum.rs.
#
# Multiplying two reflected remainders without carry gives their product times x; the crc32 instruction over such a
# 64-bit product reduces it and multiplies by x^32. So shifting by n bits takes the constant x^(n - 33).

# The rest: eight bytes at a time, then one. rdi remainder, rsi from, rdx length; ends the routine.
.macro CRC_REST
    cmp rdx, 8
    jb 81f
80: crc32 rdi, qword ptr [rsi]
    add rsi, 8
    sub rdx, 8
    cmp rdx, 8
    jae 80b
81: test rdx, rdx
    je 83f
82: crc32 edi, byte ptr [rsi]
    inc rsi
    dec rdx
    jne 82b
83: mov edx, edi
    DONE
.endm

# As long as there are 3 * piece bytes: three remainders side by side, joined by two multiplications.
.macro CRC_THREE piece, constants
50: cmp rdx, 3 * \piece
    jb 52f
    xor r8d, r8d
    xor r9d, r9d
    mov eax, \piece / 8
51: crc32 rdi, qword ptr [rsi]
    crc32 r8, qword ptr [rsi + \piece]
    crc32 r9, qword ptr [rsi + 2 * \piece]
    add rsi, 8
    dec eax
    jne 51b
    vmovq xmm0, rdi
    vmovq xmm1, r8
    vpclmulqdq xmm0, xmm0, [rcx + \constants], 0x00
    vpclmulqdq xmm1, xmm1, [rcx + \constants], 0x10
    vpxor xmm0, xmm0, xmm1
    vmovq rax, xmm0
    xor edi, edi
    crc32 rdi, rax
    xor rdi, r9
    add rsi, 2 * \piece
    sub rdx, 3 * \piece
    jmp 50b
52:
.endm

# Three streams of the crc32 instruction.
ROUTINE lifeboat_kernels_crc_three
    CRC_THREE 1024, 0
    CRC_THREE 128, 16
    CRC_REST
END lifeboat_kernels_crc_three

# into = acc * constants + into, for registers of one width
.macro FOLD acc, into, constants, scratch
    vpclmulqdq \scratch, \acc, \constants, 0x00
    vpclmulqdq \acc, \acc, \constants, 0x11
    vpxor \into, \into, \scratch
    vpxor \into, \into, \acc
.endm

# ymm3 holds the last 32 bytes' worth: to one remainder in rdi, then the rest.
.macro CRC_LAST_32
    vextracti128 xmm4, ymm3, 1
    vmovdqu xmm15, [rcx + 32]
    FOLD xmm3, xmm4, xmm15, xmm5
    vmovq rax, xmm4
    vpextrq r8, xmm4, 1
    xor edi, edi
    crc32 rdi, rax
    crc32 rdi, r8
    vzeroupper
    CRC_REST
.endm

# Carry-less multiplication on 256 bits, 128 bytes at a time. rdx at least 128.
ROUTINE lifeboat_kernels_crc_clmul256
    vmovd xmm4, edi
    vpxor ymm0, ymm4, [rsi]
    vmovdqu ymm1, [rsi + 32]
    vmovdqu ymm2, [rsi + 64]
    vmovdqu ymm3, [rsi + 96]
    sub rsi, -128
    add rdx, -128
    vbroadcasti128 ymm15, [rcx + 80]
21:  cmp rdx, 128
    jb 22f
    vpclmulqdq ymm4, ymm0, ymm15, 0x00
    vpclmulqdq ymm5, ymm1, ymm15, 0x00
    vpclmulqdq ymm6, ymm2, ymm15, 0x00
    vpclmulqdq ymm7, ymm3, ymm15, 0x00
    vpclmulqdq ymm0, ymm0, ymm15, 0x11
    vpclmulqdq ymm1, ymm1, ymm15, 0x11
    vpclmulqdq ymm2, ymm2, ymm15, 0x11
    vpclmulqdq ymm3, ymm3, ymm15, 0x11
    vpxor ymm4, ymm4, [rsi]
    vpxor ymm5, ymm5, [rsi + 32]
    vpxor ymm6, ymm6, [rsi + 64]
    vpxor ymm7, ymm7, [rsi + 96]
    vpxor ymm0, ymm0, ymm4
    vpxor ymm1, ymm1, ymm5
    vpxor ymm2, ymm2, ymm6
    vpxor ymm3, ymm3, ymm7
    sub rsi, -128
    add rdx, -128
    jmp 21b
22:  vbroadcasti128 ymm15, [rcx + 48]
    FOLD ymm0, ymm1, ymm15, ymm4
    FOLD ymm1, ymm2, ymm15, ymm4
    FOLD ymm2, ymm3, ymm15, ymm4
    CRC_LAST_32
END lifeboat_kernels_crc_clmul256

# The same on 512 bits, 512 bytes at a time. rdx at least 512.
.macro FOLD_LINE acc, scratch, place
    vpclmulqdq \scratch, \acc, zmm31, 0x00
    vpclmulqdq \acc, \acc, zmm31, 0x11
    vpternlogq \acc, \scratch, [rsi + \place], 0x96
.endm

ROUTINE lifeboat_kernels_crc_clmul512
    vmovd xmm16, edi
    vpxorq zmm0, zmm16, [rsi]
    vmovdqu64 zmm1, [rsi + 64]
    vmovdqu64 zmm2, [rsi + 128]
    vmovdqu64 zmm3, [rsi + 192]
    vmovdqu64 zmm4, [rsi + 256]
    vmovdqu64 zmm5, [rsi + 320]
    vmovdqu64 zmm6, [rsi + 384]
    vmovdqu64 zmm7, [rsi + 448]
    add rsi, 512
    sub rdx, 512
    vbroadcasti32x4 zmm31, [rcx + 96]
21:  cmp rdx, 512
    jb 22f
    FOLD_LINE zmm0, zmm16, 0
    FOLD_LINE zmm1, zmm17, 64
    FOLD_LINE zmm2, zmm18, 128
    FOLD_LINE zmm3, zmm19, 192
    FOLD_LINE zmm4, zmm20, 256
    FOLD_LINE zmm5, zmm21, 320
    FOLD_LINE zmm6, zmm22, 384
    FOLD_LINE zmm7, zmm23, 448
    add rsi, 512
    sub rdx, 512
    jmp 21b
.macro FOLD_NEXT acc, into
    vpclmulqdq zmm16, \acc, zmm31, 0x00
    vpclmulqdq \acc, \acc, zmm31, 0x11
    vpternlogq \into, \acc, zmm16, 0x96
.endm
22:  vbroadcasti32x4 zmm31, [rcx + 64]
    FOLD_NEXT zmm0, zmm1
    FOLD_NEXT zmm1, zmm2
    FOLD_NEXT zmm2, zmm3
    FOLD_NEXT zmm3, zmm4
    FOLD_NEXT zmm4, zmm5
    FOLD_NEXT zmm5, zmm6
    FOLD_NEXT zmm6, zmm7
    vextracti64x4 ymm3, zmm7, 1
    vbroadcasti128 ymm15, [rcx + 48]
    FOLD ymm7, ymm3, ymm15, ymm4
    CRC_LAST_32
END lifeboat_kernels_crc_clmul512

# Copying and checksum in one: the four streams of the interleaved copy are four streams of the crc32 instruction, which
# works while the copy waits for memory.
# copy_crc_pages(rdi to, multiple of 64; rsi from; rdx groups of 16 KiB, not 0; rcx remainder; r8 constants): value = remainder

# The 64 bytes of each page at rsi, again and from the first cache.
.macro CRC_FOUR
    .irp place, 0, 8, 16, 24, 32, 40, 48, 56
    crc32 rcx, qword ptr [rsi + \place]
    crc32 r9, qword ptr [rsi + 4096 + \place]
    crc32 r10, qword ptr [rsi + 8192 + \place]
    crc32 r11, qword ptr [rsi + 12288 + \place]
    .endr
.endm

# After a group: the four remainders become one in rcx.
.macro CRC_JOIN_FOUR
    vmovq xmm0, rcx
    vmovq xmm1, r9
    vmovq xmm2, r10
    vpclmulqdq xmm0, xmm0, [r8 + 112], 0x00
    vpclmulqdq xmm1, xmm1, [r8 + 112], 0x10
    vpclmulqdq xmm2, xmm2, [r8 + 128], 0x00
    vpxor xmm0, xmm0, xmm1
    vpxor xmm0, xmm0, xmm2
    vmovq rax, xmm0
    xor ecx, ecx
    crc32 rcx, rax
    xor rcx, r11
.endm

# The reading comes before the storing: a load whose address ends in the same twelve bits as a store on its way waits.
.macro COPY_CRC_PAGES name, level
ROUTINE \name
21: mov eax, 4096
    xor r9d, r9d
    xor r10d, r10d
    xor r11d, r11d
22: LOAD_FOUR_LINES_\level rsi+256
    CRC_FOUR
    STREAM_FOUR_LINES_\level
    add rsi, 64
    add rdi, 64
    sub eax, 64
    jne 22b
    CRC_JOIN_FOUR
    add rsi, 12288
    add rdi, 12288
    dec rdx
    jne 21b
    vzeroupper
    mov edx, ecx
    DONE
END \name
.endm

COPY_CRC_PAGES lifeboat_kernels_copy_crc_pages_avx2, AVX2
COPY_CRC_PAGES lifeboat_kernels_copy_crc_pages_avx512, AVX512

LABEL lifeboat_kernels_wide_end

# Where a handler that knows no address continues, and one that put it into rdx.
LABEL lifeboat_kernels_fault_wide
    xor edx, edx
LABEL lifeboat_kernels_fault_wide_address
    vzeroupper
    mov eax, 1
    ret
