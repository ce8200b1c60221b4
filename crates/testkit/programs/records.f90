! Fortran files of every kind: formatted, sequential unformatted, direct, stream. Takes a directory; prints what it saw.
program records
  implicit none
  character(len=4096) :: directory
  character(len=40) :: word
  integer :: i, number, status, unit
  integer(kind=8) :: size_of
  logical :: is_there
  real(kind=8) :: value, total
  real(kind=8) :: field(1000)

  call get_command_argument(1, directory)

  open(newunit=unit, file=trim(directory)//'/formatted', status='replace', action='write')
  do i = 1, 2000
    write(unit, '(i6,1x,f12.4,1x,a)') i, i / 3.0d0, 'word'
  end do
  close(unit)
  open(newunit=unit, file=trim(directory)//'/formatted', status='old', action='read')
  total = 0
  do
    read(unit, *, iostat=status) number, value, word
    if (status /= 0) exit
    total = total + value
  end do
  print '(a,i6,f14.4,1x,l1)', 'formatted', number, total, is_iostat_end(status)
  backspace(unit)
  rewind(unit)
  read(unit, *) number
  print '(a,i4)', 'after rewind', number
  close(unit)

  do i = 1, 1000
    field(i) = sin(i * 0.01d0)
  end do
  open(newunit=unit, file=trim(directory)//'/sequential', form='unformatted', status='replace')
  do i = 1, 50
    write(unit) i, field
  end do
  rewind(unit)
  do i = 1, 50
    read(unit) number, field
  end do
  backspace(unit)
  backspace(unit)
  read(unit) number
  print '(a,i4,f10.6)', 'sequential', number, sum(field)
  close(unit)

  open(newunit=unit, file=trim(directory)//'/direct', form='unformatted', access='direct', recl=800, status='replace')
  do i = 20, 1, -1
    write(unit, rec=i) field(i:i+99)
  end do
  read(unit, rec=7) field(1:100)
  print '(a,f10.6)', 'direct', field(1)
  close(unit)

  open(newunit=unit, file=trim(directory)//'/stream', form='unformatted', access='stream', status='replace')
  write(unit) field
  write(unit, pos=801) 42_8
  inquire(unit, size=size_of, pos=number)
  read(unit, pos=801) size_of
  print '(a,i8,i8)', 'stream', number, size_of
  close(unit)
  inquire(file=trim(directory)//'/stream', size=size_of)
  print '(a,i8)', 'size', size_of

  open(newunit=unit, file=trim(directory)//'/formatted', position='append', status='old', action='write')
  write(unit, '(a)') 'appended'
  close(unit)
  open(newunit=unit, file=trim(directory)//'/absent', status='old', iostat=status)
  print '(a,l2)', 'absent', status /= 0
  open(newunit=unit, file=trim(directory)//'/stream', status='new', iostat=status)
  print '(a,l2)', 'exists', status /= 0
  open(newunit=unit, file=trim(directory)//'/gone', status='replace')
  close(unit, status='delete')
  inquire(file=trim(directory)//'/gone', exist=is_there)
  print '(a,l2)', 'deleted is there', is_there
end program
