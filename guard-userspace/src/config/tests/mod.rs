mod good;
