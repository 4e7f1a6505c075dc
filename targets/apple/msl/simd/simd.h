// Included by every shader that naga writes; no kernel uses anything of it.
#pragma once
