# `cmake --install`: the headers and a package for find_package(planlm [COMPONENTS text cuda]).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(planlm_package_dir ${CMAKE_INSTALL_DATADIR}/cmake/planlm)

if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.23)
  install(TARGETS planlm EXPORT planlm-targets FILE_SET HEADERS)
else()
  target_include_directories(planlm INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  install(TARGETS planlm EXPORT planlm-targets)
  install(DIRECTORY include/planlm DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
          FILES_MATCHING PATTERN *.hpp PATTERN *.cuh)
endif()
install(EXPORT planlm-targets NAMESPACE planlm:: DESTINATION ${planlm_package_dir})

configure_package_config_file(cmake/planlm-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/planlm-config.cmake
                              INSTALL_DESTINATION ${planlm_package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/planlm-config-version.cmake
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/planlm-config.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/planlm-config-version.cmake
              cmake/planlm-text.cmake
              cmake/planlm-cuda.cmake
        DESTINATION ${planlm_package_dir})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/planlm)
