! Heat in a plate of several materials, on any number of MPI ranks.
!
!     mpifort -O3 -o heat heat.f90
!     mpiexec -n 4 ./heat PLATE DIRECTORY RESULT STEPS EVERY
!
! Reads the plate from PLATE, computes STEPS steps, writes a checkpoint into DIRECTORY every EVERY steps and the final
! temperatures to RESULT. When DIRECTORY (which must exist) holds a checkpoint that is whole on all ranks, the newest one
! is continued. The result depends on PLATE and STEPS alone, to the last bit.
!
! A checkpoint is one file per rank, ckpt.STEP.RANK, written by stream I/O under a temporary name, synced, renamed:
!     header   8 words of 8 bytes: magic, step, ranks, rank, rows, columns, fields, 0
!     fields   temperature, peak, dose, mean: each rows x columns doubles
!     trailer  2 words: checksum of everything before it, magic
module heat_state
  use, intrinsic :: iso_c_binding
  use, intrinsic :: iso_fortran_env, only: int64, real64, error_unit
  use mpi
  implicit none

  integer, parameter :: temperature = 1, peak = 2, dose = 3, mean = 4, fields = 4
  integer, parameter :: history_every = 10, torch_period = 800
  integer(int64), parameter :: magic = int(z'314B435046414548', int64) ! "HEAFPCK1"

  type :: material_type
    real(real64) :: diffusivity = -1, initial = 0, heating = 0
  end type

  type :: plate_type
    integer :: cells = 0, map = 0
    character(len=256), allocatable :: grid(:)
    type(material_type) :: material(0:255)
    real(real64) :: torch_heating = 0, torch_radius = 1, dose_threshold = 0
  end type

  ! What one rank holds: columns first, with a frame of one cell around its block.
  type :: block_type
    integer :: comm, rank, ranks, rows, columns, first_row, first_column
    integer :: up, down, left, right
    real(real64), allocatable :: field(:, :, :), next(:, :), across(:, :), downward(:, :), heating(:, :)
  end type

  interface
    integer(c_int) function c_rename(old, new) bind(c, name='rename')
      import :: c_int, c_char
      character(kind=c_char), intent(in) :: old(*), new(*)
    end function
    integer(c_int) function c_unlink(path) bind(c, name='unlink')
      import :: c_int, c_char
      character(kind=c_char), intent(in) :: path(*)
    end function
    integer(c_int) function c_fsync(descriptor) bind(c, name='fsync')
      import :: c_int
      integer(c_int), value :: descriptor
    end function
  end interface

contains

  subroutine fail(what)
    character(len=*), intent(in) :: what
    integer :: error
    write (error_unit, '(2a)') 'heat: ', what
    call MPI_Abort(MPI_COMM_WORLD, 1, error)
  end subroutine

  ! ---- input ----

  subroutine read_plate(path, p)
    character(len=*), intent(in) :: path
    type(plate_type), intent(inout) :: p
    character(len=512) :: line
    character(len=16) :: word
    character(len=1) :: symbol
    type(material_type) :: m
    integer :: unit, status, row, i
    open (newunit=unit, file=path, action='read', status='old', iostat=status)
    if (status /= 0) call fail('cannot open the plate '//path)
    do
      read (unit, '(a)', iostat=status) line
      if (status /= 0) call fail('no map in the plate '//path)
      if (line(1:1) == '#' .or. line == '') cycle
      read (line, *) word
      if (word == 'plate') exit
      select case (word)
      case ('cells'); read (line, *, iostat=status) word, p%cells
      case ('map'); read (line, *, iostat=status) word, p%map
      case ('torch'); read (line, *, iostat=status) word, p%torch_heating, p%torch_radius
      case ('dose'); read (line, *, iostat=status) word, p%dose_threshold
      case ('material')
        symbol = line(10:10)
        read (line(11:), *, iostat=status) m%diffusivity, m%initial, m%heating
        p%material(ichar(symbol)) = m
      case default; status = 1
      end select
      if (status /= 0) call fail('malformed line in the plate: '//trim(line))
    end do
    if (p%map < 1 .or. p%map > 256 .or. p%cells < p%map) call fail('bad cells or map in '//path)
    if (mod(p%cells, p%map) /= 0) call fail('cells is no multiple of map in '//path)
    allocate (p%grid(p%map))
    do row = 1, p%map
      read (unit, '(a)', iostat=status) p%grid(row)
      if (status /= 0 .or. len_trim(p%grid(row)) /= p%map) call fail('a line of the map has a wrong length in '//path)
      do i = 1, p%map
        if (p%material(ichar(p%grid(row) (i:i)))%diffusivity < 0) call fail('the map has a character without a material')
      end do
    end do
    close (unit)
  end subroutine

  ! Rows and columns count from 0 over the whole plate.
  pure function material_at(p, row, column) result(m)
    type(plate_type), intent(in) :: p
    integer, intent(in) :: row, column
    type(material_type) :: m
    integer :: r, c
    r = min(max(row, 0), p%cells - 1)/(p%cells/p%map) + 1
    c = min(max(column, 0), p%cells - 1)/(p%cells/p%map) + 1
    m = p%material(ichar(p%grid(r) (c:c)))
  end function

  ! Diffusivity of the face between two cells: nothing flows through the plate's edge.
  pure function face(p, row, column, row2, column2) result(k)
    type(plate_type), intent(in) :: p
    integer, intent(in) :: row, column, row2, column2
    real(real64) :: k
    type(material_type) :: a, b
    k = 0
    if (row < 0 .or. column < 0 .or. row2 >= p%cells .or. column2 >= p%cells) return
    a = material_at(p, row, column)
    b = material_at(p, row2, column2)
    if (a%diffusivity + b%diffusivity > 0) k = 2*a%diffusivity*b%diffusivity/(a%diffusivity + b%diffusivity)
  end function

  subroutine make_block(p, b)
    type(plate_type), intent(in) :: p
    type(block_type), intent(inout) :: b
    integer :: shape(2), place(2), error
    shape = 0
    call MPI_Comm_size(MPI_COMM_WORLD, b%ranks, error)
    call MPI_Dims_create(b%ranks, 2, shape, error)
    call MPI_Cart_create(MPI_COMM_WORLD, 2, shape, [.false., .false.], .false., b%comm, error)
    call MPI_Comm_rank(b%comm, b%rank, error)
    call MPI_Cart_coords(b%comm, b%rank, 2, place, error)
    call MPI_Cart_shift(b%comm, 0, 1, b%up, b%down, error)
    call MPI_Cart_shift(b%comm, 1, 1, b%left, b%right, error)
    if (mod(p%cells, shape(1)) /= 0 .or. mod(p%cells, shape(2)) /= 0) call fail('the cells cannot be divided among the ranks')
    b%rows = p%cells/shape(1)
    b%columns = p%cells/shape(2)
    b%first_row = place(1)*b%rows
    b%first_column = place(2)*b%columns
    allocate (b%field(0:b%columns + 1, 0:b%rows + 1, fields))
    allocate (b%next(0:b%columns + 1, 0:b%rows + 1))
    allocate (b%across, b%downward, b%heating, mold=b%next)
  end subroutine

  ! The state before the first step.
  subroutine fill_block(p, b)
    type(plate_type), intent(in) :: p
    type(block_type), intent(inout) :: b
    type(material_type) :: m
    integer :: i, j, row, column
    b%field = 0
    do j = 0, b%rows + 1
      do i = 0, b%columns + 1
        row = b%first_row + j - 1
        column = b%first_column + i - 1
        m = material_at(p, row, column)
        b%across(i, j) = face(p, row, column, row, column + 1)
        b%downward(i, j) = face(p, row, column, row + 1, column)
        b%heating(i, j) = m%heating
        b%field(i, j, temperature) = m%initial
        b%field(i, j, peak) = m%initial
      end do
    end do
    b%next = 0
  end subroutine

  ! ---- one step ----

  subroutine exchange_frames(b, n, m, t)
    type(block_type), intent(in) :: b
    integer, intent(in) :: n, m
    real(real64), intent(inout) :: t(0:n + 1, 0:m + 1)
    real(real64) :: from(m), into(m)
    integer :: error
    call MPI_Sendrecv(t(1:n, 1), n, MPI_DOUBLE_PRECISION, b%up, 1, t(1:n, m + 1), n, MPI_DOUBLE_PRECISION, b%down, 1, &
                      b%comm, MPI_STATUS_IGNORE, error)
    call MPI_Sendrecv(t(1:n, m), n, MPI_DOUBLE_PRECISION, b%down, 2, t(1:n, 0), n, MPI_DOUBLE_PRECISION, b%up, 2, &
                      b%comm, MPI_STATUS_IGNORE, error)
    from = t(1, 1:m)
    call MPI_Sendrecv(from, m, MPI_DOUBLE_PRECISION, b%left, 3, into, m, MPI_DOUBLE_PRECISION, b%right, 3, &
                      b%comm, MPI_STATUS_IGNORE, error)
    if (b%right /= MPI_PROC_NULL) t(n + 1, 1:m) = into
    from = t(n, 1:m)
    call MPI_Sendrecv(from, m, MPI_DOUBLE_PRECISION, b%right, 4, into, m, MPI_DOUBLE_PRECISION, b%left, 4, &
                      b%comm, MPI_STATUS_IGNORE, error)
    if (b%left /= MPI_PROC_NULL) t(0, 1:m) = into
  end subroutine

  pure subroutine diffuse(n, m, t, next, across, downward, heating)
    integer, intent(in) :: n, m
    real(real64), dimension(0:n + 1, 0:m + 1), intent(in) :: t, across, downward, heating
    real(real64), dimension(0:n + 1, 0:m + 1), intent(inout) :: next
    integer :: i, j
    do j = 1, m
      do i = 1, n
        next(i, j) = t(i, j) + across(i, j)*(t(i + 1, j) - t(i, j)) - across(i - 1, j)*(t(i, j) - t(i - 1, j)) &
                     + downward(i, j)*(t(i, j + 1) - t(i, j)) - downward(i, j - 1)*(t(i, j) - t(i, j - 1)) + heating(i, j)
      end do
    end do
  end subroutine

  subroutine heat_by_torch(p, b, step)
    type(plate_type), intent(in) :: p
    type(block_type), intent(inout) :: b
    integer, intent(in) :: step
    real(real64) :: turn, row, column, radius, distance2
    integer :: r, c, i, j
    turn = 2*acos(-1.0_real64)*step/torch_period
    radius = p%torch_radius
    row = p%cells*(0.5_real64 + 0.42_real64*sin(3*turn))
    column = p%cells*(0.5_real64 + 0.42_real64*sin(2*turn + 0.6_real64))
    do r = int(row - radius), int(row + radius)
      do c = int(column - radius), int(column + radius)
        j = r - b%first_row + 1
        i = c - b%first_column + 1
        distance2 = (r - row)**2 + (c - column)**2
        if (j < 1 .or. j > b%rows .or. i < 1 .or. i > b%columns .or. distance2 > radius**2) cycle
        b%field(i, j, temperature) = b%field(i, j, temperature) + p%torch_heating*(1 - distance2/radius**2)
      end do
    end do
  end subroutine

  subroutine compute_step(p, b, step)
    type(plate_type), intent(in) :: p
    type(block_type), intent(inout) :: b
    integer, intent(in) :: step
    integer :: i, j
    real(real64) :: weight
    call exchange_frames(b, b%columns, b%rows, b%field(:, :, temperature))
    call diffuse(b%columns, b%rows, b%field(:, :, temperature), b%next, b%across, b%downward, b%heating)
    b%field(1:b%columns, 1:b%rows, temperature) = b%next(1:b%columns, 1:b%rows)
    call heat_by_torch(p, b, step)
    if (mod(step, history_every) /= 0) return
    weight = real(history_every, real64)/step
    do j = 1, b%rows
      do i = 1, b%columns
        associate (t => b%field(i, j, temperature))
          b%field(i, j, peak) = max(b%field(i, j, peak), t)
          b%field(i, j, dose) = b%field(i, j, dose) + max(t - p%dose_threshold, 0.0_real64)
          b%field(i, j, mean) = b%field(i, j, mean) + (t - b%field(i, j, mean))*weight
        end associate
      end do
    end do
  end subroutine

  ! ---- checkpoints ----

  function path_of(directory, step, rank) result(path)
    character(len=*), intent(in) :: directory
    integer, intent(in) :: step, rank
    character(len=:), allocatable :: path
    character(len=32) :: name
    write (name, '(a, i6.6, a, i0)') '/ckpt.', step, '.', rank
    path = directory//trim(name)
  end function

  subroutine remove_file(path)
    character(len=*), intent(in) :: path
    integer(c_int) :: ignored
    ignored = c_unlink(path//c_null_char)
  end subroutine

  function header_of(b, step) result(words)
    type(block_type), intent(in) :: b
    integer, intent(in) :: step
    integer(int64) :: words(8)
    words = [magic, int([step, b%ranks, b%rank, b%rows, b%columns, fields, 0], int64)]
  end function

  function checkpoint_bytes(b) result(bytes)
    type(block_type), intent(in) :: b
    integer(int64) :: bytes
    bytes = 64_int64 + 8_int64*fields*b%rows*b%columns + 16
  end function

  ! Rotate and exclusive-or: enough to tell a torn or altered file from a whole one.
  pure subroutine add_to_checksum(sum, words)
    integer(int64), intent(inout) :: sum
    integer(int64), intent(in) :: words(:)
    integer :: i
    do i = 1, size(words)
      sum = ieor(ishftc(sum, 7), words(i))
    end do
  end subroutine

  ! Writes this rank's file; seconds counts the file's statements only. status is 0 when it is whole and in place.
  subroutine write_file(b, directory, step, seconds, status)
    type(block_type), intent(in) :: b
    character(len=*), intent(in) :: directory
    integer, intent(in) :: step
    real(real64), intent(out) :: seconds
    integer, intent(out) :: status
    character(len=:), allocatable :: final, temporary
    integer(int64) :: sum, header(8)
    integer :: unit, f, j
    real(real64) :: start
    final = path_of(directory, step, b%rank)
    temporary = final//'.tmp'
    header = header_of(b, step)
    sum = 0
    call add_to_checksum(sum, header)
    start = MPI_Wtime()
    open (newunit=unit, file=temporary, access='stream', form='unformatted', action='write', status='replace', iostat=status)
    seconds = MPI_Wtime() - start
    if (status /= 0) return
    write (unit, iostat=status) header
    do f = 1, fields
      do j = 1, b%rows
        call add_to_checksum(sum, transfer(b%field(1:b%columns, j, f), [0_int64]))
      end do
      start = MPI_Wtime()
      if (status == 0) write (unit, iostat=status) b%field(1:b%columns, 1:b%rows, f)
      seconds = seconds + MPI_Wtime() - start
    end do
    start = MPI_Wtime()
    if (status == 0) write (unit, iostat=status) sum, magic
    if (status == 0) flush (unit, iostat=status)
    if (status == 0) status = c_fsync(int(fnum(unit), c_int))
    close (unit, iostat=f)
    if (status == 0) status = f
    if (status == 0) status = c_rename(temporary//c_null_char, final//c_null_char)
    seconds = seconds + MPI_Wtime() - start
    if (status /= 0) call remove_file(temporary)
  end subroutine

  ! Reads this rank's file of a step into the fields; true when it is whole.
  function read_file(b, directory, step) result(whole)
    type(block_type), intent(inout) :: b
    character(len=*), intent(in) :: directory
    integer, intent(in) :: step
    logical :: whole
    integer(int64) :: header(8), trailer(2), sum, bytes
    integer :: unit, status, f, j
    whole = .false.
    open (newunit=unit, file=path_of(directory, step, b%rank), access='stream', form='unformatted', action='read', &
          status='old', iostat=status)
    if (status /= 0) return
    inquire (unit=unit, size=bytes)
    read (unit, iostat=status) header
    if (status == 0 .and. bytes == checkpoint_bytes(b) .and. all(header == header_of(b, step))) then
      sum = 0
      call add_to_checksum(sum, header)
      do f = 1, fields
        if (status == 0) read (unit, iostat=status) b%field(1:b%columns, 1:b%rows, f)
        do j = 1, b%rows
          call add_to_checksum(sum, transfer(b%field(1:b%columns, j, f), [0_int64]))
        end do
      end do
      if (status == 0) read (unit, iostat=status) trailer
      if (status == 0) whole = trailer(1) == sum .and. trailer(2) == magic
    end if
    close (unit)
  end function

  ! The newest step at or below `bound` whose file this rank could read whole into the fields; -1: none.
  function newest_whole(b, directory, bound, every) result(step)
    type(block_type), intent(inout) :: b
    character(len=*), intent(in) :: directory
    integer, intent(in) :: bound, every
    integer :: step
    logical :: there
    do step = bound - mod(bound, every), every, -every
      inquire (file=path_of(directory, step, b%rank), exist=there)
      if (there) then
        if (read_file(b, directory, step)) return
      end if
    end do
    step = -1
  end function

  ! The newest step that is whole on all ranks, read into the fields; -1: none.
  function restart(b, directory, steps, every) result(least)
    type(block_type), intent(inout) :: b
    character(len=*), intent(in) :: directory
    integer, intent(in) :: steps, every
    integer :: least, bound, mine, error
    integer :: whole, everywhere
    bound = steps
    do
      mine = newest_whole(b, directory, bound, every)
      call MPI_Allreduce(mine, least, 1, MPI_INTEGER, MPI_MIN, b%comm, error)
      if (least < 0) return
      whole = merge(1, 0, mine == least)
      if (whole == 0) whole = merge(1, 0, read_file(b, directory, least))
      call MPI_Allreduce(whole, everywhere, 1, MPI_INTEGER, MPI_MIN, b%comm, error)
      if (everywhere == 1) return
      bound = least - 1
    end do
  end function

  ! Removes what this rank left in the directory, but for one step.
  subroutine remove_others(b, directory, steps, every, kept)
    type(block_type), intent(in) :: b
    character(len=*), intent(in) :: directory
    integer, intent(in) :: steps, every, kept
    integer :: step
    do step = every, steps, every
      call remove_file(path_of(directory, step, b%rank)//'.tmp')
      if (step /= kept) call remove_file(path_of(directory, step, b%rank))
    end do
  end subroutine

  ! A failed checkpoint is told and does not end the run; older ones go only when the new one is whole everywhere.
  subroutine checkpoint(b, directory, step, last, before_last)
    type(block_type), intent(in) :: b
    character(len=*), intent(in) :: directory
    integer, intent(in) :: step
    integer, intent(inout) :: last, before_last
    real(real64) :: seconds, slowest
    integer :: status, worst, error
    if (b%rank == 0) call say_step(step, ': writing a checkpoint')
    call write_file(b, directory, step, seconds, status)
    if (status /= 0) write (error_unit, '(a, i0, a, i0, 2a)') &
      'heat: rank ', b%rank, ': no checkpoint of step ', step, ' in ', directory
    call MPI_Allreduce(abs(status), worst, 1, MPI_INTEGER, MPI_MAX, b%comm, error)
    call MPI_Reduce(seconds, slowest, 1, MPI_DOUBLE_PRECISION, MPI_MAX, 0, b%comm, error)
    if (worst /= 0) then
      call remove_file(path_of(directory, step, b%rank))
      return
    end if
    if (before_last >= 0) call remove_file(path_of(directory, before_last, b%rank))
    before_last = last
    last = step
    if (b%rank == 0) call say_step(step, ': checkpoint of '//megabytes(b)//' MB in '//decimal(slowest, 4)//' s')
  end subroutine

  ! ---- words for the user ----

  subroutine say_step(step, what)
    integer, intent(in) :: step
    character(len=*), intent(in) :: what
    write (*, '(a, i0, a)') 'step ', step, what
    flush (6)
  end subroutine

  function decimal(value, digits) result(text)
    real(real64), intent(in) :: value
    integer, intent(in) :: digits
    character(len=:), allocatable :: text
    character(len=32) :: form, padded
    write (form, '(a, i0, a)') '(f20.', digits, ')'
    write (padded, form) value
    text = trim(adjustl(padded))
  end function

  function megabytes(b) result(text)
    type(block_type), intent(in) :: b
    character(len=:), allocatable :: text
    text = decimal(1e-6_real64*checkpoint_bytes(b)*b%ranks, 1)
  end function

  ! ---- result ----

  subroutine write_result(p, b, path)
    type(plate_type), intent(in) :: p
    type(block_type), intent(in) :: b
    character(len=*), intent(in) :: path
    real(real64), allocatable :: all(:, :, :)
    integer :: unit, error, row, across, i, owner
    allocate (all(b%columns, b%rows, 0:merge(b%ranks - 1, 0, b%rank == 0)))
    call MPI_Gather(b%field(1:b%columns, 1:b%rows, temperature), b%columns*b%rows, MPI_DOUBLE_PRECISION, &
                    all, b%columns*b%rows, MPI_DOUBLE_PRECISION, 0, b%comm, error)
    if (b%rank /= 0) return
    across = p%cells/b%columns
    open (newunit=unit, file=path, access='stream', form='unformatted', action='write', status='replace', iostat=error)
    if (error == 0) write (unit, iostat=error) int([p%cells, p%cells], int64)
    do row = 0, p%cells - 1
      do i = 0, across - 1
        call MPI_Cart_rank(b%comm, [row/b%rows, i], owner, error)
        if (error == 0) write (unit, iostat=error) all(:, mod(row, b%rows) + 1, owner)
      end do
    end do
    if (error == 0) close (unit, iostat=error)
    if (error /= 0) call fail('cannot write the result '//path)
  end subroutine
end module

program heat
  use heat_state
  implicit none
  type(plate_type) :: plate
  type(block_type) :: b
  integer :: error, steps, every, step, last, before_last
  character(len=4096) :: arguments(5)
  character(len=:), allocatable :: directory
  real(real64) :: seconds, slowest

  call MPI_Init(error)
  if (command_argument_count() /= 5) call fail('usage: heat PLATE DIRECTORY RESULT STEPS EVERY')
  do step = 1, 5
    call get_command_argument(step, arguments(step))
  end do
  read (arguments(4), *, iostat=error) steps
  if (error == 0) read (arguments(5), *, iostat=error) every
  if (error /= 0 .or. steps < 1 .or. every < 1) call fail('STEPS and EVERY must be numbers above 0')
  directory = trim(arguments(2))
  call read_plate(trim(arguments(1)), plate)
  call make_block(plate, b)
  call fill_block(plate, b)

  seconds = MPI_Wtime()
  step = restart(b, directory, steps, every)
  if (step < 0) call fill_block(plate, b) ! a broken file may have been read half into the fields
  call remove_others(b, directory, steps, every, step)
  seconds = MPI_Wtime() - seconds
  call MPI_Reduce(seconds, slowest, 1, MPI_DOUBLE_PRECISION, MPI_MAX, 0, b%comm, error)
  if (b%rank == 0 .and. step < 0) write (*, '(a)') 'start from step 0'
  if (b%rank == 0 .and. step >= 0) then
    write (*, '(a, i0, 5a)') 'restart from step ', step, ': read ', megabytes(b), ' MB in ', decimal(slowest, 4), ' s'
  end if
  flush (6)

  last = step
  before_last = -1
  step = max(step, 0)
  do while (step < steps)
    step = step + 1
    call compute_step(plate, b, step)
    if (mod(step, every) == 0) call checkpoint(b, directory, step, last, before_last)
  end do
  call write_result(plate, b, trim(arguments(3)))
  if (b%rank == 0) write (*, '(a, i0)') 'finished at step ', steps
  flush (6)
  call MPI_Comm_free(b%comm, error)
  call MPI_Finalize(error)
end program
