/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The texts of the statuses, and the version.
 */
#include "fusedbn.h"

#define TEXT_OF(x) #x
#define VERSION_TEXT(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

const char *fbn_status_string(fbn_status status)
{
    static const char *const texts[] = {
#define FBNI_STATUS_TEXT(name, value, text) [value] = text,
        FBN_STATUS_LIST(FBNI_STATUS_TEXT)
#undef FBNI_STATUS_TEXT
    };
    const unsigned number = (unsigned)status;

    return number < sizeof texts / sizeof texts[0] ? texts[number] : "unknown status";
}

const char *fbn_version(void)
{
    return VERSION_TEXT(FBN_VERSION_MAJOR, FBN_VERSION_MINOR, FBN_VERSION_PATCH);
}
