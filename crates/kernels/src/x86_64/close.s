    .popsection

# Names of macros are shared by all assembly that ends up in one object.
.irp macro, ROUTINE, END, LABEL, DONE, DONE_WIDE
    .purgem \macro
.endr
.irp macro, AHEAD, LOAD_FOUR_LINES_AVX2, STREAM_FOUR_LINES_AVX2, LOAD_FOUR_LINES_AVX512, STREAM_FOUR_LINES_AVX512, STREAM_PAGES
    .purgem \macro
.endr
.irp macro, CRC_REST, CRC_THREE, FOLD, CRC_LAST_32, FOLD_LINE, FOLD_NEXT, CRC_FOUR, CRC_JOIN_FOUR, COPY_CRC_PAGES
    .purgem \macro
.endr
