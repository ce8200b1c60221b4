# Rules for every routine in this folder, on which the fault fix-up rests:
#
# * No stack is used: the word at rsp is always the return address. No register that the caller keeps is changed.
# * Every access to memory that may not be there lies between the labels of its half (general registers, or AVX).
# * Answer in two registers: rax = 0 and rdx = value, or rax = 1 and rdx = the address that could not be touched.
# * Arguments in rdi, rsi, rdx, rcx, r8.
#
# So a fault anywhere can be answered in one way: continue at fault_plain or fault_avx, which return to the caller.

.macro ROUTINE name
    .p2align 6
    .globl \name
    .hidden \name
    .type \name, @function
\name:
    .cfi_startproc
.endm

.macro END name
    .cfi_endproc
    .size \name, . - \name
.endm

.macro LABEL name
    .globl \name
    .hidden \name
\name:
.endm

# Returns 0 in rax; with the upper halves of the wide registers in use, or without.
.macro DONE
    xor eax, eax
    ret
.endm

.macro DONE_WIDE
    vzeroupper
    xor eax, eax
    ret
.endm

    .pushsection .text.lifeboat_kernels, "ax", @progbits
