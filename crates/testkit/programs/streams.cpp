// C++ streams on files: formatted, binary, both directions, seeking. Takes a directory; prints what it saw.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

namespace fs = std::filesystem;

int main(int count, char **arguments) {
    if (count != 2) return 2;
    const fs::path directory = arguments[1];
    {
        std::ofstream out(directory / "text");
        for (int i = 0; i < 5000; ++i) out << i << ' ' << i * 0.5 << '\n';
    }
    std::ifstream in(directory / "text");
    int number, seen = 0;
    double value, sum = 0;
    while (in >> number >> value) {
        sum += value;
        ++seen;
    }
    std::cout << seen << " pairs, sum " << sum << ", eof " << in.eof() << '\n';
    in.clear();
    in.seekg(-9, std::ios::end);
    std::string last;
    std::getline(in, last);
    std::cout << "last [" << last << "] at " << in.tellg() << '\n';

    std::vector<std::uint64_t> numbers(40000);
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = i * i;
    {
        std::fstream both(directory / "binary", std::ios::in | std::ios::out | std::ios::binary | std::ios::trunc);
        both.write(reinterpret_cast<const char *>(numbers.data()), numbers.size() * 8);
        both.seekp(800);
        const std::uint64_t changed = 77;
        both.write(reinterpret_cast<const char *>(&changed), 8);
        both.seekg(792);
        std::uint64_t found[3];
        both.read(reinterpret_cast<char *>(found), sizeof found);
        std::cout << found[0] << ' ' << found[1] << ' ' << found[2] << '\n';
    }
    std::ofstream more(directory / "text", std::ios::app);
    more << "appended" << std::endl;
    std::cout << "size " << fs::file_size(directory / "text") << " at " << more.tellp() << '\n';
    more.close();
    fs::create_directories(directory / "a/b/c");
    fs::copy_file(directory / "text", directory / "a/b/copy");
    fs::rename(directory / "a/b/copy", directory / "a/renamed");
    fs::create_symlink("renamed", directory / "a/link");
    std::vector<std::string> names;
    for (const auto &entry : fs::recursive_directory_iterator(directory))
        names.push_back(fs::relative(entry.path(), directory).string());
    std::sort(names.begin(), names.end());
    for (const auto &name : names) std::cout << name << '\n';
    std::cout << fs::remove_all(directory / "a/b") << " removed\n";
    std::ifstream absent(directory / "absent");
    std::cout << "absent " << absent.is_open() << '\n';
}
