# Routines in general registers and the compulsory SSE2: the scalar level, and strings at every level.

LABEL lifeboat_kernels_plain_begin

# copy(rdi to, rsi from, rdx length)
ROUTINE lifeboat_kernels_copy_plain
    cmp rdx, 16
    jb 24f
    mov rcx, rdx
21:  cmp rcx, 32
    jb 22f
    mov rax, [rsi]
    mov r8, [rsi + 8]
    mov r9, [rsi + 16]
    mov r10, [rsi + 24]
    mov [rdi], rax
    mov [rdi + 8], r8
    mov [rdi + 16], r9
    mov [rdi + 24], r10
    add rsi, 32
    add rdi, 32
    sub rcx, 32
    jmp 21b
22:  cmp rcx, 16
    jb 23f
    mov rax, [rsi]
    mov r8, [rsi + 8]
    mov [rdi], rax
    mov [rdi + 8], r8
    # The last 16 bytes overlap what is already there.
23:  mov rax, [rsi + rcx - 16]
    mov r8, [rsi + rcx - 8]
    mov [rdi + rcx - 16], rax
    mov [rdi + rcx - 8], r8
    DONE
24:  cmp edx, 8
    jb 25f
    mov rax, [rsi]
    mov rcx, [rsi + rdx - 8]
    mov [rdi], rax
    mov [rdi + rdx - 8], rcx
    DONE
25:  cmp edx, 4
    jb 26f
    mov eax, [rsi]
    mov ecx, [rsi + rdx - 4]
    mov [rdi], eax
    mov [rdi + rdx - 4], ecx
    DONE
26:  test edx, edx
    je 27f
    mov r8, rdx
    shr r8, 1
    movzx eax, byte ptr [rsi]
    movzx ecx, byte ptr [rsi + r8]
    movzx r9d, byte ptr [rsi + rdx - 1]
    mov [rdi], al
    mov [rdi + r8], cl
    mov [rdi + rdx - 1], r9b
27:  DONE
END lifeboat_kernels_copy_plain

# zero(rdi to, rsi length)
ROUTINE lifeboat_kernels_zero_plain
    xor eax, eax
21:  cmp rsi, 32
    jb 22f
    mov [rdi], rax
    mov [rdi + 8], rax
    mov [rdi + 16], rax
    mov [rdi + 24], rax
    add rdi, 32
    sub rsi, 32
    jmp 21b
22:  cmp esi, 8
    jb 23f
    mov [rdi], rax
    add rdi, 8
    sub esi, 8
    jmp 22b
23:  test esi, esi
    je 24f
    mov [rdi], al
    inc rdi
    dec esi
    jmp 23b
24:  ret
END lifeboat_kernels_zero_plain

# string(rdi to, rsi from, rdx max): value = length, or -1 when longer than max. Sixteen bytes at a time where they lie
# in one page and in the destination, else one. What is looked at is what is stored: nothing is read twice.
ROUTINE lifeboat_kernels_string_plain
    mov r8, rdi
    pxor xmm1, xmm1
21:  cmp rdx, 16
    jb 23f
    mov eax, esi
    and eax, 4095
    cmp eax, 4080
    ja 23f
    movdqu xmm0, [rsi]
    movdqu [rdi], xmm0
    pcmpeqb xmm0, xmm1
    pmovmskb eax, xmm0
    test eax, eax
    jne 22f
    add rsi, 16
    add rdi, 16
    sub rdx, 16
    jmp 21b
22:  bsf eax, eax
    lea rdx, [rdi + rax]
    sub rdx, r8
    DONE
23:  movzx eax, byte ptr [rsi]
    test al, al
    je 24f
    sub rdx, 1
    jb 25f
    mov [rdi], al
    inc rsi
    inc rdi
    jmp 21b
24:  mov rdx, rdi
    sub rdx, r8
    DONE
25:  mov rdx, -1
    DONE
END lifeboat_kernels_string_plain

# two(rdi from): value = the first byte, and in the next eight bits the second, which is not looked at behind a NUL.
ROUTINE lifeboat_kernels_two_plain
    movzx edx, byte ptr [rdi]
    test edx, edx
    je 21f
    movzx ecx, byte ptr [rdi + 1]
    shl ecx, 8
    or edx, ecx
21:  DONE
END lifeboat_kernels_two_plain

LABEL lifeboat_kernels_plain_end

# Where a handler that knows no address continues, and one that put it into rdx.
LABEL lifeboat_kernels_fault_plain
    xor edx, edx
LABEL lifeboat_kernels_fault_plain_address
    mov eax, 1
    ret
