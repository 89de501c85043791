/// Everything for the CPU: models, training, the backend. For programs and first contact; libraries include what they use.
#pragma once
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/planlm.hpp>
