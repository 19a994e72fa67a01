/* SPDX-License-Identifier: GPL-2.0-only */
/* Records of the family `file`, and what the agent puts into its maps. */
#ifndef FLEETMEND_ABI_FILE_H
#define FLEETMEND_ABI_FILE_H

/* Texts begin within so many bytes behind a record; those that would begin later are left out. */
#define FILE_TEXT_BYTES_MAX 2048
/* Names of folders that are walked from a file to the root. */
#define FILE_DEPTH_MAX 24
/* Entries of a call's table; calls of both architectures have lower numbers. */
#define FILE_CALLS_MAX 512

enum file_kind {
	FILE_OPEN = 1,
	FILE_RENAME = 2,
	FILE_UNLINK = 3,
	FILE_LINK = 4,
	FILE_SYMLINK = 5,
	FILE_CHMOD = 6,
	FILE_CHOWN = 7,
	FILE_ATTRIBUTE = 8,
	FILE_TRUNCATE = 9,
};

enum file_flags {
	FILE_RESOLVED = 1,  /* `from` is the path of the file itself, `path` is empty */
	FILE_TRUNCATED = 2, /* a text is longer than the record */
	FILE_CREATED = 4,   /* the open made the file */
	FILE_READ = 8,      /* opened for reading only: a file that holds secrets */
	FILE_WATCHED = 16,  /* the agent watches the file; told in the critical ring */
};

/* Which arguments a call has what in: one more than the argument's number; 0 for none. */
struct file_call {
	u8 kind;
	u8 folder;        /* descriptor of the folder that `path` is relative to */
	u8 path;
	u8 target_folder;
	u8 target;
	u8 fd;            /* the file itself */
	u8 flags;
	u8 mode;
	u8 uid;
	u8 gid;
	u8 attribute;
	u8 how;           /* address of a struct open_how */
	u8 implied;       /* whether the call creates and cuts, as creat(2) */
	u8 reserved[3];
};

/* Followed by the texts, in the order of their lengths. `from` and `target_from` are names of folders, each ended by a
 * NUL, the innermost first: of the folder that the text behind it is relative to, or of the file itself. */
struct file_record {
	struct act_head act;
	u64 inode;
	u32 device; /* the kernel's own encoding: major << 20 | minor */
	u32 flags;  /* of an open */
	u32 mode;
	u32 owner_uid;
	u32 owner_gid;
	u16 attribute_len;
	u16 from_len;
	u16 path_len;
	u16 target_from_len;
	u16 target_len;
	u16 reserved;
};

/* Sets of the table of repeats. */
#define REPEAT_SETS 2048

/* Files that the agent watches. */
struct watched_key {
	u64 inode;
	u32 device;
	u32 reserved;
};

#define WATCH_READS 1    /* opens for reading are told */
#define WATCH_CRITICAL 2 /* acts go to the critical ring */

_Static_assert(sizeof(struct file_call) == 16, "file_call");
_Static_assert(sizeof(struct file_record) == 144, "file_record");
_Static_assert(sizeof(struct watched_key) == 16, "watched_key");

#endif
