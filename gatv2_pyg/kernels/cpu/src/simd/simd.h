// Vectors of one instruction set.
#pragma once

#include "simd/half.h"
#include "simd/masks.h"
#include "simd/math.h"
#include "simd/vector.h"
#include "simd/words.h"
